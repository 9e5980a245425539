package snapshot

import (
	"container/list"
	"sync"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// cacheBytes bounds what a Tree keeps decoded, roughly.
const cacheBytes = 8 << 20

// object is a decoded leaf or node, exactly one of them.
type object struct {
	leaf *leaf
	node *node
	cost int
}

// objectCache keeps the most recently used objects up to a sum of costs. Safe for concurrent use.
type objectCache struct {
	mu    sync.Mutex // guards everything below
	free  int
	order *list.List // of *cached, most recent first
	byID  map[chunk.ID]*list.Element
}

type cached struct {
	id chunk.ID
	o  object
}

func newObjectCache(bytes int) *objectCache {
	return &objectCache{free: bytes, order: list.New(), byID: map[chunk.ID]*list.Element{}}
}

func (c *objectCache) get(id chunk.ID) (object, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[id]
	if !ok {
		return object{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).o, true
}

func (c *objectCache) put(id chunk.ID, o object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byID[id]; ok {
		return
	}
	c.byID[id] = c.order.PushFront(&cached{id, o})
	for c.free -= o.cost; c.free < 0 && c.order.Len() > 0; {
		old := c.order.Remove(c.order.Back()).(*cached)
		delete(c.byID, old.id)
		c.free += old.o.cost
	}
}
