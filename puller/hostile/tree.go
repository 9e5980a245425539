package hostile

import (
	"fmt"
	"sort"
	"strings"
	"sync"
)

// Root is the directory to pull. It has two parts.
const (
	Root   = "/data"
	Honest = Root + "/honest"
	Evil   = Root + "/evil"
)

// bigBytes is more than one request of any size that a client may ask for.
const bigBytes = 300<<10 + 11

// node is a file, directory or link of the tree.
type node struct {
	mode     uint32
	size     uint64
	mtime    uint32
	content  []byte
	target   string
	children []string
}

// tree maps paths to nodes. It is safe for concurrent use.
type tree struct {
	mu    sync.Mutex
	nodes map[string]*node
}

// HonestFiles is the content of every file of the honest part, by its path.
func HonestFiles() map[string][]byte {
	files := map[string][]byte{Honest + "/empty": {}, Honest + "/big": pattern(bigBytes, 3)}
	for i := range 12 {
		files[fmt.Sprintf("%s/sub/file-%02d", Honest, i)] = pattern(100+i*991, byte(i))
	}
	return files
}

// HonestLinks is the target of every symbolic link of the honest part, by its path.
func HonestLinks() map[string]string { return map[string]string{Honest + "/link": "sub/file-00"} }

// pattern is content that no shift of itself equals.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

func newTree() *tree {
	t := &tree{nodes: map[string]*node{}}
	t.dir("/")
	t.dir(Root)
	t.dir(Honest)
	t.dir(Honest + "/sub")
	t.dir(Evil)
	t.dir(Evil + "/dir")
	for path, content := range HonestFiles() {
		t.file(path, content)
	}
	for path, target := range HonestLinks() {
		t.link(path, target)
	}
	t.file(Evil+"/file", pattern(1000, 66))
	t.file(Evil+"/big", pattern(bigBytes, 67))
	t.file(Evil+"/dir/inner", pattern(50, 68))
	t.link(Evil+"/link", "file")
	return t
}

const mtime = 1_600_000_000

func (t *tree) dir(path string) *node {
	return t.put(path, &node{mode: 0o040755, size: 4096, mtime: mtime})
}

func (t *tree) file(path string, content []byte) *node {
	return t.put(path, &node{mode: 0o100644, size: uint64(len(content)), mtime: mtime, content: content})
}

func (t *tree) link(path, target string) *node {
	return t.put(path, &node{mode: 0o120777, size: uint64(len(target)), mtime: mtime, target: target})
}

func (t *tree) put(path string, n *node) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes[path] = n
	if at := strings.LastIndexByte(path, '/'); path != "/" {
		parent := t.nodes[path[:max(at, 1)]]
		parent.children = append(parent.children, path[at+1:])
		sort.Strings(parent.children)
	}
	return n
}

// get returns a copy of a node; "/." and a trailing "/" name the directory itself.
func (t *tree) get(path string) (node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.nodes[path]; ok {
		return *n, true
	}
	n, ok := t.nodes[strings.TrimSuffix(strings.TrimSuffix(path, "."), "/")]
	if !ok {
		return node{}, false
	}
	return *n, true
}

func (t *tree) replace(by *tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes = by.nodes
}
