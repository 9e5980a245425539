package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/config"
)

// watchConfig takes the configuration anew when the process is told to, and when a look once a minute finds its files
// changed, until ctx ends.
func (s *server) watchConfig(ctx context.Context, told <-chan os.Signal) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	seen := "" // so the first look reads: a file may have changed since the daemon read it
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
			seen = s.h.a.configState() // before it is read: what changes meanwhile is found by the next look
			s.reload(true)
		case <-tick.C:
			if now := s.h.a.configState(); now != seen {
				seen = now
				s.reload(false)
			}
		}
	}
}

// reload takes the configuration anew: sources, intervals, locks, limits, memory. A broken one is reported, and the old one
// stays.
func (s *server) reload(asked bool) {
	cfg, err := s.h.a.loadConfig()
	if err == nil && !asked && reflect.DeepEqual(cfg, s.h.settings.config()) {
		return
	}
	if was := s.h.settings.config(); err == nil && cfg.Vault == "" && len(cfg.Sources) == 0 && (was.Vault != "" || len(was.Sources) > 0) {
		err = errors.New("it names neither the vault nor any source, and the one in force does: was it read while it was being written?")
	}
	if err == nil {
		err = s.state.asker.use(cfg)
	}
	if err == nil {
		err = s.h.settings.use(cfg)
	}
	if err != nil {
		s.log.Error("the new configuration is not taken, the old one stays in force", "error", err.Error())
		return
	}
	s.adopt(context.Background(), cfg)
	s.state.enrol(cfg)
	s.h.a.tuneMemory(cfg, s.h.v.IndexBytes())
	s.log.Info("configuration taken", "sources", len(cfg.Sources), "bandwidth", strings.Join(cfg.Bandwidth.Lines, ", "))
	if fixed := needRestart(s.cfg, cfg); len(fixed) > 0 {
		s.log.Warn("a change of these holds only after a restart", "keys", strings.Join(fixed, ", "))
	}
}

// needRestart names the keys that differ and are read only when the daemon starts.
func needRestart(began, now *config.Config) (keys []string) {
	for _, k := range []struct {
		key    string
		differ bool
	}{
		{"vault", began.Vault != now.Vault},
		{"unlock_key", began.UnlockKey != now.UnlockKey},
		{"metrics", began.Metrics != now.Metrics},
		{"door", !reflect.DeepEqual(began.Door, now.Door)},
	} {
		if k.differ {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// configState changes when a file of the configuration does.
func (a *app) configState() string {
	file, _ := a.configFile()
	dirs := []string{config.SourcesDirOf(file)}
	if dir := a.vaultDirNamed(); dir != "" {
		if own, err := a.vaultSourcesDir(dir); err == nil {
			dirs = append(dirs, own)
		}
	}
	var b strings.Builder
	look := func(name string) {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&b, "%q %v\n", name, err)
			return
		}
		inode := uint64(0)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = st.Ino
		}
		fmt.Fprintf(&b, "%q %d %d %d\n", name, inode, info.Size(), info.ModTime().UnixNano())
	}
	look(file)
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			fmt.Fprintf(&b, "%q %v\n", dir, err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".yaml") && !strings.HasPrefix(e.Name(), ".") {
				look(filepath.Join(dir, e.Name()))
			}
		}
	}
	return b.String()
}
