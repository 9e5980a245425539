package vault

import (
	"testing"
	"time"
)

// TestInterruptedRunOfAnotherHostIsContinued suspends a session and begins again with another address, or a host with
// another key: what the first one read is not taken for the content of the second.
func TestInterruptedRunOfAnotherHostIsContinued(t *testing.T) {
	first := SessionOptions{Source: "web1", Origin: "sftp://a@one/etc", HostKey: "SHA256:one SHA256:two"}
	for name, row := range map[string]struct {
		second  SessionOptions
		resumes bool
	}{
		"the same":              {first, true},
		"one key more":          {SessionOptions{Source: "web1", Origin: first.Origin, HostKey: "SHA256:two SHA256:three"}, true},
		"unknown":               {SessionOptions{Source: "web1"}, true},
		"another address":       {SessionOptions{Source: "web1", Origin: "sftp://a@two/etc", HostKey: first.HostKey}, false},
		"another key, one name": {SessionOptions{Source: "web1", Origin: first.Origin, HostKey: "SHA256:three"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCrashWorld(t)
			v, err := w.open(t.Context(), w.disk.Clone(), w.index.clone())
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			s, err := v.Begin(t.Context(), first)
			if err != nil {
				t.Fatal(err)
			}
			id := s.ID()
			if err := s.Suspend(); err != nil {
				t.Fatal(err)
			}
			w.clock.Advance(time.Minute)
			if s, err = v.Begin(t.Context(), row.second); err != nil {
				t.Fatal(err)
			}
			if resumed := s.ID() == id; resumed != row.resumes {
				t.Errorf("resumed %v, want %v", resumed, row.resumes)
			}
			if err := s.Abandon(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
