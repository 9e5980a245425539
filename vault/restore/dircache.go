package restore

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// dirCacheIdle is how many directories stay open that nobody is using.
const dirCacheIdle = 32

// dirCache keeps directories open between the files that are made in them. Safe for concurrent use.
type dirCache struct {
	open func(path string) (*os.File, error)

	mu    sync.Mutex
	byDir map[string]*dirHandle
	idle  []*dirHandle // users == 0, longest idle first
}

type dirHandle struct {
	path  string
	f     *os.File
	users int

	given sync.Once
	owner *owner // that files made in it have, nil when the system does not tell
}

// givenTo is the owner of the new file fd, which was made in h. The system is asked for the first one only: for the others it
// decides likewise, by who we are, by the directory's set-gid bit and by how the file system is mounted. Somebody else's
// directory may get another group at any time, so it tells nothing of the next file.
func (h *dirHandle) givenTo(fd int) *owner {
	h.given.Do(func() {
		var dir, st unix.Stat_t
		if unix.Fstat(int(h.f.Fd()), &dir) == nil && dir.Uid == uint32(os.Geteuid()) && unix.Fstat(fd, &st) == nil {
			h.owner = &owner{st.Uid, st.Gid}
		}
	})
	return h.owner
}

// get returns the open directory at path; put gives it back.
func (c *dirCache) get(path string) (*dirHandle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.byDir[path]; ok {
		if h.users == 0 {
			c.forgetIdle(h)
		}
		h.users++
		return h, nil
	}
	f, err := c.open(path)
	if err != nil {
		return nil, err
	}
	if c.byDir == nil {
		c.byDir = make(map[string]*dirHandle)
	}
	h := &dirHandle{path: path, f: f, users: 1}
	c.byDir[path] = h
	return h, nil
}

func (c *dirCache) put(h *dirHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	c.idle = append(c.idle, h)
	if len(c.idle) > dirCacheIdle {
		oldest := c.idle[0]
		c.idle = append(c.idle[:0], c.idle[1:]...)
		delete(c.byDir, oldest.path)
		oldest.f.Close()
	}
}

func (c *dirCache) forgetIdle(h *dirHandle) {
	for i, x := range c.idle {
		if x == h {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			return
		}
	}
}

func (c *dirCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, h := range c.byDir {
		errs = append(errs, h.f.Close())
	}
	c.byDir, c.idle = nil, nil
	return errors.Join(errs...)
}
