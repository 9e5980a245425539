package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/note"
)

const (
	// segmentFull is the size in bytes from which on a segment takes no more lines.
	segmentFull = 4 << 20
	// segmentMax bounds what is read as a segment: a full one, the line that filled it, and a torn one.
	segmentMax = segmentFull + 2*lineMax + 2

	// damagesMax bounds how many places are named in one pass.
	damagesMax = 1000

	checkpointName = "checkpoint"
	cosignedName   = "cosigned"
	segmentSuffix  = ".jsonl"
	// tmpSuffix marks what durable's verbs leave behind when they are cut: garbage.
	tmpSuffix = ".tmp"
)

// Damage is one thing that is wrong with the ledger.
type Damage struct {
	Where  string // "ledger/000001.jsonl line 12", "ledger/checkpoint"
	Detail string
}

func (d *Damage) Error() string { return d.Where + " is damaged: " + d.Detail }

// segment is one file of the ledger as it was found.
type segment struct {
	number int
	lines  int   // lines that count, from the first one on
	bytes  int64 // what these take, newlines included
	tail   int64 // bytes behind them: a torn line, or a line that was never acknowledged
	size   int64 // of the file when it was read
	torn   error // what is wrong with the first line of the tail, if it ends in a newline
}

func segmentName(dir string, number int) string {
	return path.Join(dir, fmt.Sprintf("%06d%s", number, segmentSuffix))
}

// parseSegmentName reads a segment's number from its file name in its only spelling.
func parseSegmentName(name string) (int, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || fmt.Sprintf("%06d", n) != digits {
		return 0, false
	}
	return n, true
}

// scan is a pass over the whole ledger.
type scan struct {
	disk durable.Disk
	dir  string

	segments []segment
	strays   []string // files in the ledger's directory that are nobody's
	tree     tree
	verifier string // as demanded, or as the init record has it
	init     *Init
	unknown  map[Kind]int
	origins  []Origin
	originAt []int64 // numbers of their records
	damages  []*Damage
	// broken says that a line is missing or damaged in the middle: from there on leaves cannot be counted.
	broken bool
	// abandoned says that the last segment holds nothing but a pin that may not be durable: the next
	// record begins another segment.
	abandoned bool

	checkpoint   []byte // the signed note, nil when there is none
	checkpointAt string // its file, or where it would be
	older        []byte // one in the place where it lay before, nil for none
	signed       Checkpoint

	cosigned    []byte // the newest cosigned checkpoint, nil when there is none or it does not hold
	cosignedAt  string
	cosignedOf  Checkpoint
	cosignedErr error
}

func (s *scan) damage(where, format string, args ...any) {
	if len(s.damages) >= damagesMax {
		return // a person has seen enough, and memory is bounded
	}
	s.damages = append(s.damages, &Damage{Where: where, Detail: fmt.Sprintf(format, args...)})
}

// read makes the pass. The checkpoint is read before the lines: a writer that goes on meanwhile only
// adds lines, so that they cannot seem to lag behind it.
func (s *scan) read() error {
	s.unknown = make(map[Kind]int)
	noteErr := s.readCheckpoint()
	s.readCosigned()
	numbers, err := s.list()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("ledger: %s holds no segment: %w", s.dir, fs.ErrNotExist)
	}
	if numbers[0] != 1 {
		s.broken = true
		s.damage(segmentName(s.dir, 1), "it is missing")
	}
	for _, n := range numbers {
		if err := s.readSegment(n); err != nil {
			return err
		}
	}
	if s.init == nil && !s.broken {
		s.damage(segmentName(s.dir, 1)+" line 1", "it is not an init record")
	}
	if noteErr != nil {
		s.damage(s.checkpointAt, "%v; any checkpoint of this ledger that was saved earlier may be put in its place", noteErr)
	} else if err := s.compare(); err != nil {
		return err
	}
	if err := s.compareOlder(); err != nil {
		return err
	}
	return s.compareCosigned()
}

// compareOlder holds the lines against a checkpoint that was left where vaults without a guard have it. Nothing is owed to
// it, but what it signs must still be there.
func (s *scan) compareOlder() error {
	if s.older == nil || s.verifier == "" || s.broken {
		return nil
	}
	c, err := ParseCheckpoint(s.older, s.verifier)
	if err != nil {
		return nil // the one that counts was verified
	}
	if c.Size > uint64(s.tree.n) {
		s.missing("%s covers %d records, and only %d are there", path.Join(s.dir, checkpointName), c.Size, s.tree.n)
		return nil
	}
	root, err := s.tree.root(int64(c.Size))
	if err == nil && root != c.Root {
		s.damage(s.dir, "the first %d records do not have the root that %s signs", c.Size, path.Join(s.dir, checkpointName))
	}
	return err
}

func (s *scan) readCosigned() {
	s.cosigned, s.cosignedAt, _, s.cosignedErr = readNote(s.disk, s.dir, cosignedName)
	if errors.Is(s.cosignedErr, fs.ErrNotExist) {
		s.cosigned, s.cosignedErr = nil, nil
	}
}

// compareCosigned holds the lines against the newest checkpoint that a witness cosigned.
func (s *scan) compareCosigned() error {
	where := s.cosignedAt
	signed := s.cosigned
	s.cosigned = nil
	if s.cosignedErr != nil {
		s.damage(where, "%v; it may be removed, the witnesses are asked again", s.cosignedErr)
		return nil
	}
	if signed == nil || s.verifier == "" {
		return nil
	}
	c, err := ParseCheckpoint(signed, s.verifier)
	if err != nil {
		s.damage(where, "%v; it may be removed, the witnesses are asked again", err)
		return nil
	}
	if s.broken {
		s.cosignedOf = c
		return nil
	}
	if err := onChain(c, s.verifier, s.origins); err != nil {
		s.damage(where, "%v", err)
		return nil
	}
	if c.Size > uint64(s.tree.n) {
		s.missing("witnesses cosigned %d records, and only %d are there", c.Size, s.tree.n)
		return nil
	}
	root, err := s.tree.root(int64(c.Size))
	if err != nil {
		return err
	}
	if root != c.Root {
		s.damage(s.dir, "the first %d records do not have the root that witnesses cosigned", c.Size)
		return nil
	}
	s.cosigned, s.cosignedOf = signed, c
	return nil
}

func (s *scan) readCheckpoint() error {
	var err error
	s.checkpoint, s.checkpointAt, s.older, err = readNote(s.disk, s.dir, checkpointName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// list gives the numbers of the segments, ascending.
func (s *scan) list() ([]int, error) {
	entries, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		n, ok := parseSegmentName(e.Name())
		switch {
		case ok:
			numbers = append(numbers, n)
		case e.Name() == checkpointName || e.Name() == cosignedName || strings.HasSuffix(e.Name(), tmpSuffix):
		default:
			s.strays = append(s.strays, path.Join(s.dir, e.Name()))
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// readSegment reads the lines of one segment into the tree. What stands behind its last valid line is
// the trace of a write that was cut: one that was never acknowledged, or else the checkpoint or the
// next segment's pin will miss it. An invalid line with a valid one behind it is damage.
func (s *scan) readSegment(number int) error {
	name := segmentName(s.dir, number)
	data, err := durable.ReadFile(s.disk, name, segmentMax)
	if err != nil {
		s.broken = true
		s.damage(name, "it cannot be read: %v", err)
		s.segments = append(s.segments, segment{number: number})
		return nil
	}
	seg := segment{number: number, size: int64(len(data))}
	rest := data[endOfValid(data):]
	for data = data[:len(data)-len(rest)]; len(data) > 0; seg.lines++ {
		line, more, _ := bytes.Cut(data, []byte("\n"))
		where := fmt.Sprintf("%s line %d", name, seg.lines+1)
		if r, err := parseLine(line); err != nil {
			s.broken = true
			s.damage(where, "%v", err)
		} else if err := s.take(&seg, seg.lines+1, where, &r); err != nil {
			return err
		}
		seg.bytes += int64(len(line)) + 1
		data = more
	}
	seg.tail = int64(len(rest))
	if line, _, whole := bytes.Cut(rest, []byte("\n")); whole {
		_, seg.torn = parseLine(line)
	}
	s.segments = append(s.segments, seg)
	if seg.lines == 0 && len(s.segments) == 1 && !s.broken {
		s.missing("the init record is not there")
	}
	return nil
}

// endOfValid gives the offset behind the last valid line, newline included; 0 if there is none.
func endOfValid(data []byte) int {
	end := bytes.LastIndexByte(data, '\n') + 1
	for end > 0 {
		begin := bytes.LastIndexByte(data[:end-1], '\n') + 1
		if _, err := parseLine(data[begin : end-1]); err == nil {
			return end
		}
		end = begin
	}
	return 0
}

// missing reports that a record is not where it must be: behind the last line that was read.
func (s *scan) missing(format string, args ...any) {
	s.broken = true
	last := s.segments[len(s.segments)-1]
	where := fmt.Sprintf("%s line %d", segmentName(s.dir, last.number), last.lines+1)
	why := fmt.Sprintf(format, args...)
	switch {
	case last.torn != nil:
		s.damage(where, "%v (%s)", last.torn, why)
	case last.tail > 0:
		s.damage(where, "it does not end in a newline (%s)", why)
	default:
		s.damage(where, "it is missing (%s)", why)
	}
}

// take adds a valid line to the tree.
func (s *scan) take(seg *segment, k int, where string, r *Record) error {
	if k == 1 && len(s.segments) > 0 {
		if r.Segment == nil || r.Segment.Number != seg.number {
			s.broken = true
			s.damage(where, "it does not pin segment %d", seg.number)
		} else if !s.broken {
			s.pin(where, r.Segment)
		}
	} else if r.Segment != nil {
		s.broken = true
		s.damage(where, "a pin in the middle of a segment")
	}
	if r.Kind == KindInit {
		if err := s.takeInit(where, r); err != nil {
			return err
		}
	}
	if !r.Known() {
		s.unknown[r.Kind]++
	}
	if s.broken {
		return nil
	}
	if r.Seq != uint64(s.tree.n) {
		s.broken = true
		s.damage(where, "it has number %d, and %d is the next", r.Seq, s.tree.n)
		return nil
	}
	if r.Origin != nil {
		if err := checkOrigin(r.Origin, s.verifier, s.origins, s.tree.root, s.tree.n); err != nil {
			s.damage(where, "the origin does not follow: %v", err)
		} else {
			s.origins, s.originAt = append(s.origins, *r.Origin), append(s.originAt, s.tree.n)
		}
	}
	return s.tree.add(r.Raw)
}

func (s *scan) takeInit(where string, r *Record) error {
	if r.Init.Format > Format {
		return fmt.Errorf("ledger: format %d: %w", r.Init.Format, ErrNewer)
	}
	if s.init != nil || r.Seq != 0 {
		s.broken = true
		s.damage(where, "a second init record")
		return nil
	}
	s.init = r.Init
	if s.verifier == "" {
		s.verifier = r.Init.Verifier
	} else if s.verifier != r.Init.Verifier {
		s.damage(where, "the ledger names the verifier %q, not %q", r.Init.Verifier, s.verifier)
	}
	return nil
}

// pin holds the first line of a segment against what was read before. At most one line of the
// segment before may lie beyond the pin: the one whose write failed, and which nobody was told of.
func (s *scan) pin(where string, p *Segment) {
	have := uint64(s.tree.n)
	last := &s.segments[len(s.segments)-1]
	switch {
	case p.Size > have:
		s.missing("%s counts %d records before it, and only %d are there", where, p.Size, have)
		return
	case have-p.Size > 1 || have > p.Size && last.lines == 0:
		s.broken = true
		s.damage(where, "it counts %d records before it, and %d are there", p.Size, have)
		return
	case have > p.Size:
		s.dropLast()
	}
	root, err := s.tree.root(int64(p.Size))
	if err != nil || root.String() != p.Root {
		s.broken = true
		s.damage(where, "the %d records before it do not have the root that it names", p.Size)
	}
}

// dropLast takes the last line that was counted out of the count again.
func (s *scan) dropLast() {
	s.tree.cut(s.tree.n - 1)
	if n := len(s.origins); n > 0 && s.originAt[n-1] == s.tree.n {
		s.origins, s.originAt = s.origins[:n-1], s.originAt[:n-1]
	}
	last := &s.segments[len(s.segments)-1]
	last.lines--
	// Where the dropped line begins no longer matters: a segment with a tail is never written again.
	last.tail++
}

// compare holds the lines against the checkpoint.
func (s *scan) compare() error {
	where := s.checkpointAt
	if s.checkpoint == nil {
		// The init record is published before its checkpoint: alone it is the trace of a cut.
		if s.tree.n > 1 || s.broken {
			s.damage(where, "it is missing; any checkpoint of this ledger that was saved earlier may be put in its place")
		}
		s.abandon(1)
		return nil
	}
	if s.verifier == "" {
		s.damage(where, "there is no verifier to check it with")
		return nil
	}
	c, err := ParseCheckpoint(s.checkpoint, s.verifier)
	if err != nil {
		s.damage(where, "%v; any checkpoint of this ledger that was saved earlier may be put in its place", err)
		return nil
	}
	s.signed = c
	if s.broken {
		return nil
	}
	if err := onChain(c, s.verifier, s.origins); err != nil {
		s.damage(where, "%v", err)
		return nil
	}
	if c.Size > uint64(s.tree.n) {
		s.missing("the checkpoint covers %d records, and only %d are there", c.Size, s.tree.n)
		return nil
	}
	root, err := s.tree.root(int64(c.Size))
	if err != nil {
		return err
	}
	if root != c.Root {
		s.damage(s.dir, "the first %d records do not have the root that the checkpoint signs", c.Size)
		return nil
	}
	s.abandon(c.Size)
	return nil
}

// abandon leaves a last segment out of the count that holds nothing but its pin: whoever made it may
// have been told that it failed, so that it may vanish with the next power cut. A pin that the
// checkpoint covers is durable.
func (s *scan) abandon(covered uint64) {
	last := s.segments[len(s.segments)-1]
	switch {
	case s.broken || len(s.segments) == 1 || last.lines > 1:
	case last.lines == 0:
		s.abandoned = true
	case covered < uint64(s.tree.n):
		s.dropLast()
		s.abandoned = true
	}
}

// checkVerifier refuses a key that cannot verify anything.
func checkVerifier(key string) error {
	if _, err := note.NewVerifier(key); err != nil {
		return fmt.Errorf("ledger: verifier %q: %w", key, err)
	}
	return nil
}
