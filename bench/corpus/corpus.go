// Package corpus makes the trees that are measured: the same bytes, names and times on every machine.
//
// A Tree is a plan: what lies where, and from which seed its content comes. Nothing of it depends on the clock, the machine or
// the order in which it is written. Apply brings a directory from one plan to another and touches only what differs, so that
// a source can be moved a day ahead and back again any number of times; Verify compares a directory with a plan.
//
//	Small   many small files: lognormal sizes around 4 KB, half text, half noise, 15 % duplicates, symlinks, hard links
//	Large   a database's dump, noise, a disk image with runs of zeros, and a tar of Small
//	One     one file of noise
//	Flat    empty files in a single directory
//	Tiny    files of 100 bytes, a hundred to a directory
//
// Day 2 of Small: 1 % of the files changed, 0.5 % added, 0.3 % deleted, directories renamed. Day 2 of Large: 1 % of the
// dump's lines inserted or deleted, 2 % of the image's 64 KiB blocks rewritten.
package corpus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Kind is what an Entry is.
type Kind uint8

// The kinds of entries. A Hardlink's Target is the path of the file below the tree's root, a Symlink's what readlink shows.
const (
	Dir Kind = iota
	File
	Symlink
	Hardlink
)

// Entry is one name in a Tree.
type Entry struct {
	Path    string // below the root, with slashes
	Kind    Kind
	Mode    uint32 // permission bits
	MTime   int64  // seconds since 1970, always long past
	Target  string
	Content Content
}

// Move is a directory that has another name on day 2.
type Move struct{ From, To string }

// Tree is one state of a corpus. Entries are sorted, parents first, with hard links behind everything else.
type Tree struct {
	Entries []Entry
	Day     int    // 1 or 2
	Moves   []Move // what was renamed between day 1 and day 2; in both trees
}

const (
	firstDay = 1_700_000_000 // seconds since 1970, in November 2023: nothing in a corpus is younger than a test's begin
	aDay     = 86400
)

// Bytes is the size of the content, but for a dump after day 1, which is about as long as before.
func (t *Tree) Bytes() (n int64) {
	for _, e := range t.Entries {
		if e.Kind == File {
			n += e.Content.Size
		}
	}
	return n
}

// Files counts the entries that are files.
func (t *Tree) Files() (n int) {
	for _, e := range t.Entries {
		if e.Kind == File {
			n++
		}
	}
	return n
}

// One is a single file of noise, of so many bytes.
func One(bytes int64) *Tree {
	return tree(1, nil, []Entry{file("noise.bin", Content{Form: Noise, Seed: 11, Size: bytes})})
}

// Flat is a single directory of n empty files.
func Flat(n int) *Tree {
	list := make([]Entry, n)
	for i := range list {
		list[i] = file(fmt.Sprintf("flat/entry-%07d", i), Content{Form: Text})
	}
	return tree(1, nil, list)
}

// Tiny is n files of 100 bytes, a hundred to a directory.
func Tiny(n int) *Tree {
	list := make([]Entry, n)
	for i := range list {
		list[i] = file(fmt.Sprintf("part%03d/box%02d/tiny-%07d", i/10_000, i/100%100, i), Content{Form: Noise, Seed: uint64(i), Size: 100})
	}
	return tree(1, nil, list)
}

func file(path string, c Content) Entry {
	return Entry{Path: path, Kind: File, Mode: 0o644, MTime: firstDay, Content: c}
}

// Large is the four large files, their sizes times factor, on day 1 or 2. The tar is of Small with 100,000 files times factor.
func Large(factor float64, day int) *Tree {
	size := int64(factor * (1 << 30))
	list := []Entry{
		file("dump.sql", Content{Form: Dump, Seed: 21, Size: size}),
		file("noise.bin", Content{Form: Noise, Seed: 22, Size: size}),
		file("disk.img", Content{Form: Image, Seed: 23, Size: size}),
		file("small.tar", tarContent(scaled(100_000, factor))),
	}
	if day == 2 {
		for _, i := range []int{0, 2} {
			list[i].Content.Day, list[i].MTime = 2, firstDay+aDay
		}
	}
	return tree(day, nil, list)
}

func scaled(n int, factor float64) int { return max(1, int(math.Round(float64(n)*factor))) }

// Small is so many files of the small corpus, with links besides, on day 1 or 2.
func Small(files, day int) *Tree {
	s := &small{day: day, boxes: max(1, files/20), rng: rand.New(rand.NewPCG(31, uint64(files)))}
	s.changed, s.added, s.deleted = scaled(files, 0.01), scaled(files, 0.005), scaled(files, 0.003)
	s.moved = max(1, s.boxes/500)
	for i := range files {
		s.add(i, files)
	}
	s.link(files)
	if day == 2 {
		s.nextDay(files)
	}
	t := tree(day, s.moves(), s.list)
	if day == 2 {
		s.touchDirs(t)
	}
	return t
}

// small is a Small being planned. What is drawn on day 1 is drawn alike for day 2, then changed.
type small struct {
	day                            int
	boxes                          int
	rng                            *rand.Rand
	list                           []Entry
	linked                         map[string]bool // files that have a second name stay as they are
	changed, added, deleted, moved int
	touched                        map[string]bool // directories that gained or lost a name on day 2
}

const renamedBox = "-renamed"

// box is a directory's path. The first few are renamed on day 2.
func (s *small) box(n int) string {
	name := fmt.Sprintf("box%03d", n%100)
	if s.day == 2 && n < s.moved {
		name += renamedBox
	}
	return fmt.Sprintf("area%02d/part%02d/%s", n/1000, n/100%10, name)
}

func (s *small) moves() (out []Move) {
	for n := range s.moved {
		one, two := *s, *s
		one.day, two.day = 1, 2
		out = append(out, Move{one.box(n), two.box(n)})
	}
	return out
}

func (s *small) add(i, of int) {
	c := s.content(uint64(i))
	if i > 0 && s.rng.Float64() < 0.15 {
		c = s.list[s.rng.IntN(i)].Content
	}
	e := file(fmt.Sprintf("%s/file-%06d.%s", s.box(i*s.boxes/of), i, ending(c.Form)), c)
	e.MTime -= int64(s.rng.IntN(365 * aDay))
	s.list = append(s.list, e)
}

func ending(f Form) string {
	if f == Noise {
		return "bin"
	}
	return "txt"
}

// content draws a size: lognormal with median 4 KiB and mean 12 KiB.
func (s *small) content(seed uint64) Content {
	const sigma = 1.48
	size := int64(4096 * math.Exp(sigma*s.rng.NormFloat64()))
	form := Text
	if s.rng.IntN(2) == 0 {
		form = Noise
	}
	return Content{Form: form, Seed: seed, Size: min(size, 16<<20)}
}

// link adds a symlink for every hundred files and a hard link for every two hundred.
func (s *small) link(files int) {
	s.linked = map[string]bool{}
	for i := range max(1, files/100) {
		of := s.list[s.rng.IntN(files)]
		s.list = append(s.list, Entry{
			Path: fmt.Sprintf("%s/link-%06d", s.box(s.rng.IntN(s.boxes)), i), Kind: Symlink, Mode: 0o777,
			MTime: firstDay, Target: "../../../" + strings.ReplaceAll(of.Path, renamedBox, ""), // nobody mends links
		})
	}
	for i := range max(1, files/200) {
		of := s.list[s.rng.IntN(files)]
		s.linked[of.Path] = true
		s.list = append(s.list, Entry{
			Path: fmt.Sprintf("%s/same-%06d", s.box(s.rng.IntN(s.boxes)), i), Kind: Hardlink, Mode: of.Mode,
			MTime: of.MTime, Target: of.Path,
		})
	}
}

func (s *small) nextDay(files int) {
	s.touched = map[string]bool{}
	order := s.rng.Perm(files)
	gone := map[int]bool{}
	for _, i := range order {
		e := &s.list[i]
		switch {
		case s.linked[e.Path]:
		case s.changed > 0:
			s.changed--
			e.Content.Seed += 1 << 40
			e.Content.Size += e.Content.Size / 50
			e.MTime = firstDay + aDay
		case s.deleted > 0:
			s.deleted--
			gone[i] = true
			s.touched[dirOf(e.Path)] = true
		}
	}
	for i := range s.added {
		e := file(fmt.Sprintf("%s/new-%06d.txt", s.box(s.rng.IntN(s.boxes)), i), s.content(1<<41+uint64(i)))
		e.MTime += aDay
		s.touched[dirOf(e.Path)] = true
		s.list = append(s.list, e)
	}
	for n := range s.moved {
		s.touched[dirOf(s.box(n))] = true
	}
	kept := s.list[:0]
	for i, e := range s.list {
		if !gone[i] {
			kept = append(kept, e)
		}
	}
	s.list = kept
}

func (s *small) touchDirs(t *Tree) {
	for i := range t.Entries {
		if e := &t.Entries[i]; e.Kind == Dir && s.touched[e.Path] {
			e.MTime += aDay
		}
	}
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

// tree adds the directories that the entries need, and sorts.
func tree(day int, moves []Move, list []Entry) *Tree {
	dirs := map[string]bool{"": true}
	for _, e := range list {
		for d := dirOf(e.Path); !dirs[d]; d = dirOf(d) {
			dirs[d] = true
		}
	}
	delete(dirs, "")
	for d := range dirs {
		list = append(list, Entry{Path: d, Kind: Dir, Mode: 0o755, MTime: firstDay})
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if x, y := a.Kind == Hardlink, b.Kind == Hardlink; x != y {
			if y {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	return &Tree{Entries: list, Day: day, Moves: moves}
}

// Names counts what looks like a file to whoever cannot see that two names are one file.
func (t *Tree) Names() (n int) {
	for _, e := range t.Entries {
		if e.Kind == File || e.Kind == Hardlink {
			n++
		}
	}
	return n
}
