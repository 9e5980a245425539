package puller

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Excludes are patterns in the form of a gitignore file at the root of the source: the last one that matches decides,
// "!" takes back, a "/" at the beginning or in the middle anchors the pattern to the root, one at the end makes it
// match directories only, "**" spans directories, "\" takes the meaning from the character behind it. What lies below an
// excluded directory is excluded and cannot be taken back. Names are bytes: "?" stands for one byte.
//
// Unlike git, which lets a malformed pattern match nothing, ParseExcludes says what is wrong with it.
//
// Excludes do not change once made and are safe for concurrent use; a nil *Excludes excludes nothing.
type Excludes struct {
	patterns []pattern
}

// pattern is one line. Exactly one of the fields that say how to compare is in use.
type pattern struct {
	line     string // as written
	negative bool   // "!": takes back
	dirOnly  bool   // "/" at the end
	baseOnly bool   // compared with the last part of the path alone

	literal bool   // glob is plain text: equality is enough
	glob    string // else a doublestar glob over runes that each stand for one byte
}

// ParseExcludes reads patterns, one a string; a string of several lines holds several. Empty lines and comments ("#")
// are passed over. The error names the pattern that cannot be understood.
func ParseExcludes(lines []string) (*Excludes, error) {
	x := &Excludes{}
	for _, text := range lines {
		for line := range strings.SplitSeq(text, "\n") {
			trimmed := trimSpaces(strings.TrimSuffix(line, "\r"))
			if trimmed == "" || trimmed[0] == '#' {
				continue
			}
			p, err := parsePattern(trimmed)
			if err != nil {
				return nil, fmt.Errorf("exclude pattern %q: %w", line, err)
			}
			p.line = line
			x.patterns = append(x.patterns, p)
		}
	}
	return x, nil
}

// Patterns returns the patterns as they were written, without comments and empty lines.
func (x *Excludes) Patterns() []string {
	if x == nil {
		return nil
	}
	lines := make([]string, len(x.patterns))
	for i, p := range x.patterns {
		lines[i] = p.line
	}
	return lines
}

// Match reports whether path, relative to the root and without a slash at either end, is excluded by its own name. It
// does not look at the directories above it: a walk that never enters an excluded directory keeps the rule that
// nothing below one is taken back. The root itself ("") is never excluded.
func (x *Excludes) Match(path string, dir bool) bool {
	if x == nil || len(x.patterns) == 0 || path == "" {
		return false
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	var widePath, wideBase string // as runes, made when first needed
	for i := len(x.patterns) - 1; i >= 0; i-- {
		p := &x.patterns[i]
		if p.dirOnly && !dir {
			continue
		}
		name, wide := path, &widePath
		if p.baseOnly {
			name, wide = base, &wideBase
		}
		if p.literal {
			if p.glob == name {
				return !p.negative
			}
			continue
		}
		if *wide == "" {
			*wide = widen(name)
		}
		if doublestar.MatchUnvalidated(p.glob, *wide) {
			return !p.negative
		}
	}
	return false
}

// trimSpaces takes the blanks from the end of a line, up to one that a backslash keeps.
func trimSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(line))
	}
	return line[:end]
}

func parsePattern(line string) (pattern, error) {
	p, text := pattern{}, line
	if text[0] == '!' {
		p.negative, text = true, text[1:]
	}
	if rest, ok := strings.CutSuffix(text, "/"); ok {
		p.dirOnly, text = true, rest
	}
	p.baseOnly = !strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if text == "" {
		return p, errors.New("it names nothing")
	}
	if !strings.ContainsAny(text, `*?[\`) {
		p.literal, p.glob = true, text
		return p, nil
	}
	var err error
	p.glob, err = translate(text, p.baseOnly)
	return p, err
}

// translate writes a gitignore glob as a doublestar glob: stars as git counts them, classes as sets of bytes, braces
// without their meaning, bytes as runes.
func translate(text string, baseOnly bool) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '*':
			run := len(text) - i - len(strings.TrimLeft(text[i:], "*"))
			whole := (i == 0 || text[i-1] == '/') && (i+run == len(text) || text[i+run] == '/')
			switch i += run; {
			case run == 1 || baseOnly || !whole:
				b.WriteByte('*')
			case i == len(text):
				b.WriteString("**/*") // everything inside, but not the directory itself
			default:
				b.WriteString("**")
			}
		case '?':
			b.WriteByte('?')
			i++
		case '[':
			set, n, err := parseClass(text[i:])
			if err != nil {
				return "", err
			}
			set.write(&b)
			i += n
		case '\\':
			if i+1 == len(text) {
				return "", errors.New(`a "\" at the end has nothing to act on`)
			}
			writeByte(&b, text[i+1])
			i += 2
		default:
			writeByte(&b, c)
			i++
		}
	}
	return b.String(), nil
}

// writeByte writes one byte that means itself.
func writeByte(b *strings.Builder, c byte) {
	if strings.IndexByte(`*?[]{}\,`, c) >= 0 {
		b.WriteByte('\\')
	}
	b.WriteRune(rune(c))
}

// widen turns every byte into one rune, so that a glob over runes is a glob over bytes. ASCII stays as it is.
func widen(name string) string {
	for i := range len(name) {
		if name[i] >= 0x80 {
			runes := make([]rune, len(name))
			for i := range len(name) {
				runes[i] = rune(name[i])
			}
			return string(runes)
		}
	}
	return name
}

// byteSet is what a class like [a-z] stands for.
type byteSet [256]bool

// write writes the set as a doublestar class. A slash is never in it: no class spans directories.
func (s *byteSet) write(b *strings.Builder) {
	s['/'] = false
	b.WriteByte('[')
	empty := true
	for lo := 0; lo < len(s); lo++ {
		if !s[lo] {
			continue
		}
		hi := lo
		for hi+1 < len(s) && s[hi+1] {
			hi++
		}
		b.WriteByte('\\')
		b.WriteRune(rune(lo))
		if hi > lo {
			b.WriteString(`-\`)
			b.WriteRune(rune(hi))
		}
		empty, lo = false, hi
	}
	if empty {
		b.WriteRune('\u0100') // no byte becomes this rune: a class that nothing is in
	}
	b.WriteByte(']')
}

var errUnclosed = errors.New(`a "[" has no "]"; write "\[" for the character itself`)

// parseClass reads the class at the beginning of text and returns how many bytes it took.
func parseClass(text string) (*byteSet, int, error) {
	set, i, negative := &byteSet{}, 1, false
	if i < len(text) && (text[i] == '!' || text[i] == '^') {
		negative = true
		i++
	}
	last := -1 // the byte that a "-" would begin a range with
	for first := true; ; first = false {
		if i >= len(text) {
			return nil, 0, errUnclosed
		}
		c := text[i]
		switch {
		case c == ']' && !first:
			if negative {
				for b := range set {
					set[b] = !set[b]
				}
			}
			return set, i + 1, nil
		case c == '-' && last >= 0 && i+1 < len(text) && text[i+1] != ']':
			hi, n, err := classByte(text[i+1:])
			if err != nil {
				return nil, 0, err
			}
			for b := last; b <= int(hi); b++ {
				set[b] = true
			}
			last = -1
			i += 1 + n
		case c == '[' && strings.HasPrefix(text[i:], "[:"):
			n, err := set.addNamed(text[i:])
			if err != nil {
				return nil, 0, err
			}
			last = -1
			if n == 1 {
				last = '['
			}
			i += n
		default:
			b, n, err := classByte(text[i:])
			if err != nil {
				return nil, 0, err
			}
			set[b], last = true, int(b)
			i += n
		}
	}
}

// classByte reads one byte of a class, escaped or not.
func classByte(text string) (byte, int, error) {
	if text[0] != '\\' {
		return text[0], 1, nil
	}
	if len(text) < 2 {
		return 0, 0, errUnclosed
	}
	return text[1], 2, nil
}

// addNamed adds a class with a name, like [:digit:], at the beginning of text, and returns its length; 1 when it is
// only a "[" that looks like the beginning of one.
func (s *byteSet) addNamed(text string) (int, error) {
	end := strings.IndexByte(text[2:], ']') + 2
	if end < 2 {
		return 0, errUnclosed
	}
	if end < 3 || text[end-1] != ':' {
		s['['] = true
		return 1, nil
	}
	in, ok := classes[text[2:end-1]]
	if !ok {
		return 0, fmt.Errorf("there is no class of characters named %q", text[2:end-1])
	}
	for b := range s {
		if b < 0x80 && in(byte(b)) {
			s[b] = true
		}
	}
	return end + 1, nil
}

// classes are the named classes, of ASCII alone.
var classes = map[string]func(byte) bool{
	"alnum":  func(b byte) bool { return isAlpha(b) || isDigit(b) },
	"alpha":  isAlpha,
	"blank":  func(b byte) bool { return b == ' ' || b == '\t' },
	"cntrl":  func(b byte) bool { return b < 0x20 || b == 0x7f },
	"digit":  isDigit,
	"graph":  func(b byte) bool { return b > 0x20 && b < 0x7f },
	"lower":  func(b byte) bool { return 'a' <= b && b <= 'z' },
	"print":  func(b byte) bool { return b >= 0x20 && b < 0x7f },
	"punct":  func(b byte) bool { return b > 0x20 && b < 0x7f && !isAlpha(b) && !isDigit(b) },
	"space":  func(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' },
	"upper":  func(b byte) bool { return 'A' <= b && b <= 'Z' },
	"xdigit": func(b byte) bool { return isDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' },
}

func isAlpha(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }
func isDigit(b byte) bool { return '0' <= b && b <= '9' }
