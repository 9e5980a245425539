package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

const (
	ledgerDir     = "ledger"
	logDir        = "log"
	segmentSuffix = ".jsonl"
	tmpSuffix     = ".tmp"
	// segmentMax bounds a segment: 4 MiB, the line that went beyond, and one that was torn.
	segmentMax = 4<<20 + 2*(lineMax+1)
)

func segmentName(number int) string {
	return fmt.Sprintf("%s/%06d%s", ledgerDir, number, segmentSuffix)
}

// parseNumbered reads the number from a name of at least width digits and a suffix, in its only spelling.
func parseNumbered(base string, width int, suffix string, bits int) (uint64, bool) {
	digits, ok := strings.CutSuffix(base, suffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, bits)
	return n, err == nil && n > 0 && fmt.Sprintf("%0*d", width, n) == digits
}

// counter counts the lines of a ledger into its tree and hands those that count to take, in order.
type counter struct {
	d    Files
	r    *Report
	take func(*record)
	// want has the sizes at which the root is asked for; roots has the answers.
	want  map[uint64]bool
	roots map[uint64]audit.Hash

	tree, before tree    // with and without the last leaf
	held         *record // the last leaf: the next segment's pin may take it out of the count
	seen         int     // segments so far
	lines        int     // valid lines of the newest of them
	number       int     // its number
	tail         string  // what stands behind them, in words
	// broken says that from here on leaves cannot be counted. Lines are still handed on, for what they tell about files.
	broken bool
}

func (c *counter) spoil(what, format string, args ...any) {
	c.broken = true
	c.r.damage(KindLedger, what, format, args...)
}

// count reads all segments. newest is how many records the newest checkpoint covers, -1 if none could be read.
func (c *counter) count(newest int64) error {
	numbers, err := c.list()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		c.spoil(ledgerDir, "it has no segment: every record is missing")
		return nil
	}
	if numbers[0] != 1 {
		c.spoil(segmentName(1), "it is missing, and with it the first records")
	}
	for _, n := range numbers {
		c.segment(n)
	}
	// A last segment that holds nothing but its pin was perhaps never acknowledged.
	if !c.broken && c.seen > 1 && c.lines == 1 && newest >= 0 && uint64(newest) < c.tree.n {
		c.drop()
		c.r.note(KindLedger, segmentName(c.number), "a segment that was begun and not used: no damage")
	}
	c.flush()
	c.r.Segments = c.seen
	return nil
}

// list gives the numbers of the segments, ascending.
func (c *counter) list() ([]int, error) {
	entries, err := c.d.ReadDir(ledgerDir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		n, ok := parseNumbered(e.Name(), 6, segmentSuffix, 31)
		switch {
		case ok:
			numbers = append(numbers, int(n))
		case e.Name() == checkpointFile || e.Name() == cosignedFile:
		case strings.HasSuffix(e.Name(), tmpSuffix):
			c.r.note(KindUnnamed, ledgerDir+"/"+e.Name(), "what a replacement left that was cut; the next start removes it")
		default:
			c.r.damage(KindUnnamed, ledgerDir+"/"+e.Name(), "no part of the ledger")
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// segment reads one segment. What stands behind its last valid line was never acknowledged, or else a pin, a checkpoint
// or a witness will miss it.
func (c *counter) segment(number int) {
	before := c.lines
	c.seen++
	c.number, c.lines, c.tail = number, 0, ""
	data, err := read(c.d, segmentName(number), segmentMax)
	if err != nil {
		c.spoil(segmentName(number), "it cannot be read: %v", err)
		return
	}
	valid := data[:endOfValid(data)]
	rest := data[len(valid):]
	for n := 1; len(valid) > 0; n++ {
		line, more, _ := bytes.Cut(valid, []byte("\n"))
		valid = more
		r, err := readLine(line)
		r.segment, r.number = number, n
		if err != nil {
			c.spoil(lineName(number, n), "%v%s", err, readsAs(line, err))
			continue
		}
		c.line(&r, before)
		c.lines++
	}
	if len(rest) > 0 {
		c.tail = fmt.Sprintf("; what stands at %s line %d is no whole record", segmentName(number), c.lines+1)
		c.r.note(KindLedger, lineName(number, c.lines+1), "a write was cut, or its fsync failed: %d bytes of which nobody was told, no damage", len(rest))
	}
}

// endOfValid gives the offset behind the last line whose hash is right, newline included.
func endOfValid(data []byte) int {
	end := bytes.LastIndexByte(data, '\n') + 1
	for end > 0 {
		begin := bytes.LastIndexByte(data[:end-1], '\n') + 1
		if checkHash(data[begin:end-1]) == nil {
			return end
		}
		end = begin
	}
	return 0
}

// readsAs says what a damaged line seems to be, for whoever looks for what is missing.
func readsAs(line []byte, err error) string {
	if !errors.Is(err, errHash) {
		return ""
	}
	r, err := readBody(line)
	if err != nil {
		return ""
	}
	switch b := r.body.(type) {
	case *commitBody:
		return fmt.Sprintf("; it reads as the commit of %q", b.source+"@"+b.label)
	case *sealBody:
		return fmt.Sprintf("; it reads as the seal of %q", b.file)
	}
	return fmt.Sprintf("; it reads as a record of kind %q", r.kind)
}

// line takes a valid line into the count. before is how many valid lines the segment before has.
func (c *counter) line(r *record, before int) {
	pin, isPin := r.body.(*segmentBody)
	switch {
	case r.number == 1 && c.seen > 1 && (!isPin || pin.number != int64(r.segment)):
		c.spoil(r.where(), "it does not pin segment %d", r.segment)
	case isPin && (r.number > 1 || c.seen == 1):
		c.spoil(r.where(), "a pin where none belongs")
	case isPin && !c.broken:
		c.pin(r, pin, before)
	}
	if c.broken {
		c.flush()
		c.take(r)
		return
	}
	if r.seq != c.tree.n {
		c.spoil(r.where(), "it has number %d, and %d is the next: records are missing, exchanged or repeated", r.seq, c.tree.n)
		c.flush()
		c.take(r)
		return
	}
	c.flush()
	c.held = r
	c.before = c.tree.clone()
	c.tree.add(audit.Leaf(r.line))
	if c.want[c.tree.n] {
		c.roots[c.tree.n] = c.tree.root()
	}
}

// pin holds the first line of a segment against what was counted. At most one line of the segment before may lie beyond it:
// the one whose write failed, and which nobody was told of.
func (c *counter) pin(r *record, p *segmentBody, before int) {
	switch {
	case p.size > c.tree.n:
		c.spoil(r.where(), "it counts %d records before it, and only %d are there: %s missing", p.size, c.tree.n, span(c.tree.n, p.size))
		return
	case p.size+1 < c.tree.n || p.size < c.tree.n && before == 0:
		c.spoil(r.where(), "it counts %d records before it, and %d are there", p.size, c.tree.n)
		return
	case p.size < c.tree.n:
		c.drop()
	}
	if c.tree.root().String() != p.root {
		c.spoil(r.where(), "the %d records before it do not have the root that it names: one of them was changed", p.size)
	}
}

// drop takes the last leaf out of the count again.
func (c *counter) drop() {
	delete(c.roots, c.tree.n)
	c.tree, c.held = c.before, nil
	if c.want[c.tree.n] {
		c.roots[c.tree.n] = c.tree.root()
	}
}

func (c *counter) flush() {
	if c.held != nil {
		c.take(c.held)
		c.held = nil
	}
}

// span names the records from a number up to, not including, another.
func span(from, to uint64) string {
	if from+1 == to {
		return fmt.Sprintf("record %d is", from)
	}
	return fmt.Sprintf("records %d to %d are", from, to-1)
}
