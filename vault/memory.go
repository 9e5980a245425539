package vault

import "github.com/holdfast-vault/holdfast/vault/index"

// The memory that a process may use where nothing else is said.
const defaultMemory = 256 << 20

// budget is what the parts of a vault may keep in memory, by Options.Memory. docs/ARCHITECTURE.md, "Memory", has the sums.
type budget struct {
	index   int64 // bytes of Badger's two memory tables
	sorter  int   // bytes of entries that wait for the catalog, of each session
	blocks  int   // bytes of decoded blocks, for reading
	chunks  int   // entries in the tables of open packs, for reading: about 48 bytes each
	workers int   // that compress and encrypt, of each session: an encoder and two blocks each
}

func budgetOf(memory int64) budget {
	const mib = 1 << 20
	if memory <= 0 {
		memory = defaultMemory
	}
	part := func(divisor, least, most int64) int64 { return min(max(memory/divisor, least), most) }
	return budget{
		index:   part(8, 8*mib, 64*mib),
		sorter:  int(part(16, 4*mib, 64*mib)),
		blocks:  int(part(4, 16*mib, 256*mib)),
		chunks:  int(part(256, 1<<18, 1<<22)),
		workers: int(part(32*mib, 1, 1<<10)),
	}
}

func (v *Vault) indexOptions() index.Options {
	return index.Options{MemoryBytes: v.budget.index}
}

// IndexBytes is what the index needs in memory besides Options.Memory, once its filter is in use: it grows with the vault.
func (v *Vault) IndexBytes() int64 {
	const halves = 5 // bytes for two chunks
	x, ok := v.currentIndex().(interface{ Count() uint64 })
	if !ok {
		return 0
	}
	return int64(x.Count()) * halves / 2
}
