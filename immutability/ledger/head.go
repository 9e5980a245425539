package ledger

import "golang.org/x/mod/sumdb/tlog"

// Head gives Size and Root of one moment.
func (l *Ledger) Head() (size uint64, root tlog.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.tree.root(l.acked)
	if err != nil {
		return uint64(l.acked), tlog.Hash{} // cannot be: the tree holds all its own hashes
	}
	return uint64(l.acked), h
}
