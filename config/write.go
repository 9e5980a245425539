package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// written is the shape of a file in sources.d, in the order in which it is read best.
type written struct {
	Name       string        `yaml:"name"`
	URL        any           `yaml:"url"`
	Identity   any           `yaml:"identity"`
	HostKey    string        `yaml:"host_key,omitempty"`
	KnownHosts any           `yaml:"known_hosts,omitempty"`
	Every      string        `yaml:"every,omitempty"`
	Exclude    []any         `yaml:"exclude,omitempty"`
	Lock       writtenLock   `yaml:"lock,omitempty"`
	Keep       writtenKeep   `yaml:"keep,omitempty"`
	Limits     writtenLimits `yaml:"limits,omitempty"`
}

type writtenLock struct {
	Mode   string `yaml:"mode,omitempty"`
	For    string `yaml:"for,omitempty"`
	Min    string `yaml:"min,omitempty"`
	Max    string `yaml:"max,omitempty"`
	Budget string `yaml:"budget,omitempty"`
}

type writtenLimits struct {
	Entries             int      `yaml:"entries,omitempty"`
	EntriesPerDirectory int      `yaml:"entries_per_directory,omitempty"`
	Depth               int      `yaml:"depth,omitempty"`
	PathBytes           int      `yaml:"path_bytes,omitempty"`
	FileBytes           string   `yaml:"file_bytes,omitempty"`
	Bytes               string   `yaml:"bytes,omitempty"`
	MinBytesPerSecond   string   `yaml:"min_bytes_per_second,omitempty"`
	Timeout             string   `yaml:"timeout,omitempty"`
	Connections         int      `yaml:"connections,omitempty"`
	Channels            int      `yaml:"channels,omitempty"`
	Bandwidth           []string `yaml:"bandwidth,omitempty"`
}

// quoted is a string that is written in double quotes. The vendor writes some strings plainly that it reads as something
// else, "? !" for one.
type quoted string

// MarshalYAML writes it as JSON does, which YAML reads.
func (q quoted) MarshalYAML() ([]byte, error) { return json.Marshal(string(q)) }

// text quotes what has anything but the letters of ordinary addresses and paths.
func text(s string) any {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-@:[]", c)) {
			return quoted(s)
		}
	}
	return s
}

// EncodeSource gives the content of a file in sources.d that reads as s, and refuses what would not. Relative paths
// are written as they are, and a reader joins them to the directory of the file.
func EncodeSource(s Source) ([]byte, error) {
	item := written{
		Name: s.Name, URL: text(s.URL), Identity: text(s.Identity), HostKey: s.HostKey,
		Lock: writtenLock{Mode: s.Lock.Mode}, Keep: s.Keep.written(),
		Limits: writtenLimits{
			Entries: s.Limits.Entries, EntriesPerDirectory: s.Limits.EntriesPerDirectory, Depth: s.Limits.Depth, PathBytes: s.Limits.PathBytes,
			Connections: s.Limits.Connections, Channels: s.Limits.Channels, Bandwidth: s.Limits.Bandwidth.Lines,
		},
	}
	if s.KnownHosts != "" {
		item.KnownHosts = text(s.KnownHosts)
	}
	for _, pattern := range s.Exclude {
		item.Exclude = append(item.Exclude, text(pattern))
	}
	if s.Every != 0 {
		item.Every = FormatDuration(s.Every)
	}
	for _, d := range []struct {
		to *string
		d  time.Duration
	}{{&item.Lock.For, s.Lock.For}, {&item.Lock.Min, s.Lock.Min}, {&item.Lock.Max, s.Lock.Max}, {&item.Limits.Timeout, s.Limits.Timeout}} {
		if d.d != 0 {
			*d.to = FormatDuration(d.d)
		}
	}
	for _, size := range []struct {
		to *string
		n  int64
	}{{&item.Limits.FileBytes, s.Limits.FileBytes}, {&item.Limits.Bytes, s.Limits.Bytes}, {&item.Limits.MinBytesPerSecond, s.Limits.MinBytesPerSecond}, {&item.Lock.Budget, s.Lock.Budget}} {
		if size.n != 0 {
			*size.to = FormatBytes(size.n)
		}
	}
	data, err := yaml.MarshalWithOptions(item, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("source %q cannot be written: %w", s.Name, err)
	}
	// Read it as the daemon will: what cannot be read again is refused here, not at the next start.
	if _, err := ParseSource(s.Name+".yaml", data); err != nil {
		return nil, err
	}
	return data, nil
}

// WriteSource puts one source into the directory as NAME.yaml, mode 0644, making the directory (0755) when it is
// missing, and gives the file's path. A source that has a file already is an error that is fs.ErrExist, and the file
// stays as it is. A reader sees the whole file or none. The bytes are on the medium before the name appears, so a
// power cut leaves the whole file or, in the moment after return, none.
func WriteSource(dir string, s Source) (file string, err error) {
	data, err := EncodeSource(s)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the directory for sources: %w", err)
	}
	file = filepath.Join(dir, s.Name+".yaml")
	var temporary string
	defer func() {
		if temporary != "" {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	temporary, err = writeTemporary(dir, s.Name, data)
	if err != nil {
		return "", fmt.Errorf("cannot write the source %q: %w", s.Name, err)
	}
	// Power fails here: a dot file is left, which no reader looks at.
	if err := os.Link(temporary, file); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("the source %q is enrolled already, in %q: edit or remove that file: %w", s.Name, file, fs.ErrExist)
	} else if err != nil {
		return "", fmt.Errorf("cannot write the source %q: %w", s.Name, err)
	}
	return file, nil
}

// writeTemporary gives the name of a new dot file with the content on the medium (O_SYNC), or "" and the error.
func writeTemporary(dir, name string, data []byte) (string, error) {
	for i := range 100 {
		file := filepath.Join(dir, fmt.Sprintf(".%s.yaml.%d.%d.tmp", name, os.Getpid(), i))
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_SYNC, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue // of a process that was cut and had our number
		}
		if err != nil {
			return "", err
		}
		_, err = f.Write(data)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", errors.Join(err, os.Remove(file))
		}
		return file, nil
	}
	return "", fmt.Errorf("too many files %s left behind in %q: remove them", strings.TrimSpace("."+name+".yaml.*.tmp"), dir)
}
