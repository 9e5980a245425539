package door

import (
	"errors"
	"fmt"
	"strings"
)

const wordsMax = 256

// Split cuts a command line into words, as sh would if nothing in it had a meaning but blanks and quotes:
//
//   - words are separated by spaces and tabs;
//   - between single quotes everything is itself;
//   - between double quotes everything is itself, but a backslash before one of $ ` " \ or a line feed is dropped, and
//     the line feed with it;
//   - elsewhere a backslash makes the next byte itself, and vanishes together with a line feed.
//
// There is no expansion, no variable, no comment, no operator: $HOME, *, ; and > are ordinary bytes. A line feed outside
// quotes and a NUL byte anywhere are errors.
func Split(line string) ([]string, error) {
	s := splitter{rest: line}
	for s.rest != "" {
		if err := s.next(); err != nil {
			return nil, err
		}
		if len(s.words) > wordsMax {
			return nil, fmt.Errorf("more than %d words", wordsMax)
		}
	}
	s.endWord()
	return s.words, nil
}

type splitter struct {
	rest   string
	words  []string
	word   strings.Builder
	inWord bool
}

func (s *splitter) endWord() {
	if s.inWord {
		s.words = append(s.words, s.word.String())
		s.word.Reset()
		s.inWord = false
	}
}

func (s *splitter) add(c byte) {
	s.word.WriteByte(c)
	s.inWord = true
}

// next takes one byte outside quotes, or one quoted part.
func (s *splitter) next() error {
	c := s.rest[0]
	s.rest = s.rest[1:]
	switch c {
	case ' ', '\t':
		s.endWord()
	case '\n':
		return errors.New("a line feed outside quotes")
	case 0:
		return errNUL
	case '\\':
		if s.rest == "" {
			return errors.New("a backslash at the end")
		}
		if s.rest[0] == 0 {
			return errNUL
		}
		if s.rest[0] != '\n' {
			s.add(s.rest[0])
		}
		s.rest = s.rest[1:]
	case '\'', '"':
		return s.quoted(c)
	default:
		s.add(c)
	}
	return nil
}

var errNUL = errors.New("a NUL byte")

// quoted takes what follows an opening quote, up to and with the closing one.
func (s *splitter) quoted(quote byte) error {
	s.inWord = true
	for s.rest != "" {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == quote:
			return nil
		case c == 0:
			return errNUL
		case quote == '"' && c == '\\' && s.rest != "" && strings.IndexByte("$`\"\\\n", s.rest[0]) >= 0:
			if s.rest[0] != '\n' {
				s.add(s.rest[0])
			}
			s.rest = s.rest[1:]
		default:
			s.add(c)
		}
	}
	return fmt.Errorf("a quote %q without its end", quote)
}

// Join writes words as a line that Split cuts into the same words, whatever bytes but NUL they hold.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

func quote(w string) string {
	plain := w != ""
	for i := range len(w) {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_", rune(w[i])) || w[i] >= 0x80 {
			plain = false
		}
	}
	if plain {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
