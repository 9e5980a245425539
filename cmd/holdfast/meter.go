package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-vault/holdfast/puller"
)

const (
	// meterSpan is how far back the rate of a pull looks: a file system with many small files is read in fits and starts.
	meterSpan = 15 * time.Second
	// fileWork is what a file costs besides its bytes, in bytes, when the time that is left is estimated.
	fileWork = 16 << 10
	// leftMost is the longest time left that is worth a number.
	leftMost = 100 * 24 * time.Hour
)

// pullProgress is how far a pull has come, with what follows from how it came there.
type pullProgress struct {
	puller.Progress
	BytesPerSecond uint64        // read from the source, lately
	Left           time.Duration // until everything is read, if Known
	Known          bool
}

// meter makes pullProgress of the progress that a pull tells once a second. It is safe for concurrent use.
type meter struct {
	mu      sync.Mutex
	samples []sample // oldest first; the first may be older than meterSpan
}

type sample struct {
	at         time.Duration // since the pull began
	read, work uint64
}

func workOf(files, bytes uint64) uint64 { return bytes + files*fileWork }

func (m *meter) add(p puller.Progress) pullProgress {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := sample{p.Elapsed, p.ReadBytes, workOf(p.Files, p.DoneBytes())}
	m.samples = append(m.samples, now)
	for len(m.samples) > 2 && now.at-m.samples[1].at >= meterSpan {
		m.samples = slices.Delete(m.samples, 0, 1)
	}
	out := pullProgress{Progress: p}
	first := m.samples[0]
	took := (now.at - first.at).Seconds()
	if len(m.samples) == 1 {
		first, took = sample{}, now.at.Seconds() // the beginning of the pull
	}
	if took <= 0 || now.read < first.read {
		return out
	}
	out.BytesPerSecond = uint64(float64(now.read-first.read) / took)
	all := workOf(p.TotalFiles, p.TotalBytes)
	if p.TotalFiles == 0 || now.work <= first.work || took < 2 {
		return out
	}
	left := float64(all-min(all, now.work)) / (float64(now.work-first.work) / took)
	if left < leftMost.Seconds() {
		out.Left, out.Known = time.Duration(left*float64(time.Second)), true
	}
	return out
}

// line is the progress as one line of a terminal, which may cut its end off.
func (p pullProgress) line(source string) string {
	parts := []string{}
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	of := ""
	if p.TotalBytes > 0 {
		say("%d%%", int(100*float64(p.DoneBytes())/float64(p.TotalBytes)))
		of = " of " + humanize.IBytes(p.TotalBytes)
	}
	if p.Known && p.Left >= time.Second {
		say("%s left", p.Left.Round(time.Second))
	}
	say("%s%s, %s/s", humanize.IBytes(p.DoneBytes()), of, humanize.IBytes(p.BytesPerSecond))
	of = ""
	if p.TotalFiles > 0 {
		of = " of " + humanize.Comma(int64(p.TotalFiles))
	}
	say("%s%s files", humanize.Comma(int64(p.Files)), of)
	if p.NewTold {
		say("%s new, %s known", humanize.IBytes(p.NewBytes), humanize.IBytes(p.knownBytes()))
	} else {
		say("%s read", humanize.IBytes(p.ReadBytes))
	}
	return source + ": " + strings.Join(parts, ", ")
}

// knownBytes is content that the vault held already: not read, or read and found to be there.
func (p pullProgress) knownBytes() uint64 {
	return p.KeptBytes + p.ReadBytes - min(p.ReadBytes, p.NewBytes)
}
