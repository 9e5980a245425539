package main

import (
	"errors"
	"sync"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/puller/bandwidth"
	"github.com/holdfast-vault/holdfast/puller/pace"
	"github.com/holdfast-vault/holdfast/puller/remote"
)

// settings are the configuration in force and the limits of bandwidth that follow from it. Both can be exchanged while pulls
// run. It is safe for concurrent use.
type settings struct {
	vault *pace.Line // of all sources together

	mu      sync.Mutex // guards what follows
	cfg     *config.Config
	changed chan struct{}         // closed and replaced when cfg is
	sources map[string]*pace.Line // a line stays when its source goes: a pull may still run over it
}

// newSettings takes a configuration that went through checkBandwidth.
func newSettings(cfg *config.Config) (*settings, error) {
	s := &settings{vault: pace.NewLine(bandwidth.Timetable{}, nil), changed: make(chan struct{}), sources: map[string]*pace.Line{}}
	return s, s.use(cfg)
}

// use takes another configuration. Pulls that run are paced by it from now on. With an error the old one stays.
func (s *settings) use(cfg *config.Config) error {
	all, err := timetable(cfg.Bandwidth)
	if err != nil {
		return err
	}
	own := map[string]bandwidth.Timetable{}
	for _, src := range cfg.Sources {
		if own[src.Name], err = timetable(src.Limits.Bandwidth); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vault.Set(all)
	for name, t := range own {
		if line := s.sources[name]; line != nil {
			line.Set(t)
		} else {
			s.sources[name] = pace.NewLine(t, nil)
		}
	}
	s.cfg = cfg
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// config is the configuration in force. It is never changed, only exchanged.
func (s *settings) config() *config.Config {
	cfg, _ := s.current()
	return cfg
}

// current is config, and a channel that is closed once it is no longer in force.
func (s *settings) current() (*config.Config, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg, s.changed
}

// limiter is what one pull of a source waits at: the source's own limit and its share of the vault's.
func (s *settings) limiter(source string) remote.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	shares := pace.Shares{s.vault.Share()}
	if line := s.sources[source]; line != nil {
		shares = pace.Shares{line.Share(), s.vault.Share()}
	}
	return shares
}

// timetable reads a timetable; its error shows the line in its file.
func timetable(t config.Timetable) (bandwidth.Timetable, error) {
	table, err := bandwidth.Parse(t.Lines...)
	if wrong := (*bandwidth.LineError)(nil); errors.As(err, &wrong) {
		return table, t.At(wrong.Line, err)
	}
	return table, err
}

// checkBandwidth finds everything that is wrong with the timetables of a configuration.
func checkBandwidth(cfg *config.Config) error {
	all := []config.Timetable{cfg.Bandwidth}
	for _, src := range cfg.Sources {
		all = append(all, src.Limits.Bandwidth)
	}
	var bad config.Errors
	for _, t := range all {
		_, err := timetable(t)
		var placed config.Errors
		switch {
		case errors.As(err, &placed):
			bad = append(bad, placed...)
		case err != nil:
			return err
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return nil
}
