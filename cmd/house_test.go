package cmd

// The house as data: docs/ARCHITECTURE draws it, these tables hold it. Paths are relative to the module; an arrow that
// is not here does not exist. Whoever adds one writes down why.

type arrow struct{ from, to, why string }

// floors: an import goes down or stays inside, never up.
var floors = []arrow{
	{"cmd", "metrics", "the daemon shows its state to Prometheus"},
	{"cmd", "puller", "commands and the schedule run pulls; the demonstration has its own source"},
	{"cmd", "vault", "commands open the vault and run the door"},
	{"cmd", "immutability", "commands print locks, decisions and damage in the words of the packages that take them"},
	{"cmd", "config", "the one place where a configuration meets the parts that it configures"},
	{"metrics", "puller", "collectors may implement the events of a pull"},
	{"puller", "vault", "a pull fills a session"},
	{"puller", "immutability", "a commit names its lock, and a snapshot its head, in the ledger's and in reliance's words"},
	{"vault", "immutability", "sealed files, locks and the commit point are not the vault's to decide"},
	{"bench", "vault", "a simulated year of pulls fills sessions and has no source"},
	{"bench", "immutability", "a simulated year has a clock of its own"},
}

// rooms: arrows between packages of one floor.
var rooms = []arrow{
	{"immutability/keeper", "immutability/worm", "the keeper is worm and ledger behind a socket"},
	{"immutability/keeper", "immutability/ledger", "the keeper is worm and ledger behind a socket"},
	{"immutability/keeper", "immutability/level", "a file that is made to be attacked is described in one form"},
	{"immutability/keeper", "immutability/clock", "the keeper believes no clock but its own"},
	{"immutability/keeper", "immutability/durable", "the keeper owns the files"},
	{"immutability/keeper", "immutability/reliance", "sets of packs are sent in the form that they have in a head"},
	{"immutability/place", "immutability/durable", "directories that together are a disk"},
	{"immutability/level", "immutability/durable", "a seal that is refused while somebody can write"},
	{"immutability/worm", "immutability/ledger", "every step of a sealed file is a record"},
	{"immutability/worm", "immutability/reliance", "which packs a snapshot relies on stands in its open head"},
	{"immutability/worm", "immutability/retention", "what may go is a rule of its own, apart from the power to remove"},
	{"immutability/worm", "immutability/clock", "locks run by the clock"},
	{"immutability/worm", "immutability/audit", "what witnesses said is verified by code that makes nothing"},
	{"immutability/worm", "immutability/durable", "files"},
	{"immutability/keeper", "immutability/policy", "a mirror tells what of a proposal is not followed"},
	{"immutability/worm", "immutability/quorum", "who of the people signed what is judged apart from the power to carry it out"},
	{"immutability/keeper", "immutability/quorum", "the keeper's own file names the first people"},
	{"immutability/fsck", "immutability/quorum", "the form of a request and of its signatures is read by a pure reader; how many it takes, and when, is judged anew"},
	{"immutability/worm", "immutability/policy", "which change of what locks are made of is tighter is a rule of its own"},
	{"immutability/ledger", "immutability/policy", "a record carries the policy in the form in which it is proposed"},
	{"immutability/ledger", "immutability/clock", "records carry stamps"},
	{"immutability/ledger", "immutability/durable", "files"},
	{"immutability/witness", "immutability/durable", "what a witness cosigned is never forgotten"},
	{"immutability/fsck", "immutability/audit", "checkpoints and tree hashes are read by the code that shares nothing with their writer"},
	{"immutability/fsck", "immutability/reliance", "which packs a snapshot relies on stands in its open head"},
	{"immutability/clock", "immutability/durable", "the credited running time is kept in a file"},
	{"immutability/move", "immutability/worm", "the store of the old place finishes what was interrupted, and the marks that keep writers out are its"},
	{"immutability/move", "immutability/ledger", "what a move takes along, and with which hash, stands in the ledger"},
	{"immutability/move", "immutability/clock", "marks carry the time"},
	{"immutability/move", "immutability/durable", "files"},
	{"immutability/move", "immutability/fsck", "a new place is looked at by code that shares nothing with its writer"},

	{"vault", "vault/chunk", "a session cuts and names chunks"},
	{"vault", "vault/index", "a session asks what is known"},
	{"vault", "vault/keys", "whoever opens a vault unlocks its keys"},
	{"vault", "vault/pack", "a session fills packs"},
	{"vault", "vault/snapshot", "a session makes catalog and manifest"},
	{"vault/index", "vault/chunk", "the index is keyed by chunk ID"},
	{"vault/pack", "vault/chunk", "tables of a pack name chunks"},
	{"vault/snapshot", "vault/chunk", "a catalog names chunks"},
	{"vault/restore", "vault/snapshot", "what is restored are entries of a catalog"},
	{"vault/door", "vault/restore", "the door shows a snapshot as a read-only file system"},
	{"vault/door", "vault/snapshot", "kinds and attributes of entries"},

	{"puller", "puller/remote", "a pull reads one source"},
	{"puller", "puller/schedule", "the words of a schedule's history"},
	{"puller/pace", "puller/bandwidth", "a limit follows a timetable"},

	{"metrics", "metrics/status", "the status page is served beside the metrics"},

	{"bench", "bench/corpus", "what is pulled"},
	{"bench", "bench/delay", "the long way to it"},
	{"bench", "bench/lab", "programs are run and measured in one place"},
}

// bare packages import nothing of ours at all.
var bare = map[string]string{
	"config":                 "plain structs: whoever changes a part must not have to change its configuration's reader",
	"immutability/durable":   "the ground floor",
	"immutability/audit":     "whoever doubts the writer's code must be able to do without it",
	"immutability/reliance":  "read by the keeper without keys, by auditors without a vault",
	"immutability/retention": "pure rules, to be tested by the million",
	"immutability/policy":    "pure rules, and a file that a person writes",
	"immutability/quorum":    "signatures and requests of anybody: pure, so that nothing else can move its judgement",
	"vault/chunk":            "a format",
	"vault/keys":             "keys are wrapped and derived here and nothing else",
	"puller/bandwidth":       "pure",
	"puller/schedule":        "pure",
	"puller/throwaway":       "stands in for a stranger's machine",
	"systemd":                "asks systemd, not us",
	"bench/corpus":           "a corpus must not change with us",
	"bench/delay":            "a wire knows nothing of what it carries",
	"bench/lab":              "all are measured alike",
}

// unreachable: what a package must not reach, not even through others.
var unreachable = []arrow{
	{"vault/door", "immutability/worm", "no code behind a stranger's connection can spell a deletion of anything sealed"},
	{"vault/door", "immutability/durable", "no code behind a stranger's connection can spell a deletion of anything sealed"},
	{"vault/door", "vault/keys", "the door gives back through a view and holds no key"},
	{"vault/restore", "immutability/worm", "giving back needs no power to destroy"},
	{"puller/remote", "immutability/worm", "no code that listens to a source can spell a deletion of anything sealed"},
	{"puller/remote", "immutability/durable", "no code that listens to a source can spell a deletion of anything sealed"},
	{"puller/remote", "vault/keys", "a source is answered without keys in reach"},
	{"vault/pack", "immutability/durable", "the pack format knows only io"},
	{"cmd/holdfast-verify", "immutability/ledger", "it checks the ledger's claims and shares the formats alone"},
	{"cmd/holdfast-verify", "immutability/witness", "it checks witnesses' claims and shares the formats alone"},
	{"cmd/holdfast-verify", "vault", "it needs no vault"},
	{"cmd/holdfast-keeper", "vault", "the privileged process links only immutability"},
	{"cmd/holdfast-keeper", "puller", "the privileged process links only immutability"},
	{"cmd/holdfast-keeper", "metrics", "the privileged process links only immutability"},
	{"cmd/holdfast-keeper", "config", "the privileged process takes no configuration of the daemon's"},
}

// confined programs reach these packages of ours and no other, not even through others.
var confined = []struct {
	program string
	reaches []string
	why     string
}{
	{"cmd/holdfast-fsck", []string{"immutability/fsck", "immutability/audit", "immutability/quorum", "immutability/reliance", "vault/chunk", "vault/keys", "vault/pack", "vault/snapshot"},
		"it checks what ledger, worm, keeper, vault and index wrote, and shares only decoders that write nothing"},
}

// forTests are packages that no program links.
var forTests = map[string]string{
	"immutability/durable/crashdisk":   "a disk that fails",
	"immutability/durable/durabletest": "the conformance kit of disks",
	"immutability/quorum/sktest":       "a FIDO key without hardware",
	"immutability/ledger/killpoint":    "a process that is killed at a chosen operation",
	"vault/restore/restoretest":        "a source of entries in memory",
	"puller/hostile":                   "a server that lies",
	"puller/sshdtest":                  "a real sshd",
	"metrics/promtest":                 "a real Prometheus",
}

// rims: each vendor lives in the packages named, so that it can be exchanged there. Tests may use any.
var rims = []struct {
	vendor string
	in     []string
	why    string
}{
	{"filippo.io/age", []string{"vault/keys"}, "wrapping of keys"},
	{"github.com/dgraph-io", []string{"vault/index"}, "Badger is a cache that can be thrown away"},
	{"google.golang.org/protobuf", []string{"vault/index"}, "Badger's own tables, for its check"},
	{"github.com/klauspost", []string{"vault/pack"}, "compression and parity are parts of the pack format"},
	{"github.com/RoaringBitmap", []string{"immutability/fsck", "immutability/keeper", "immutability/reliance", "immutability/worm", "vault", "vault/index", "vault/snapshot", "cmd/holdfast-fsck"}, "sets of packs"},
	{"golang.org/x/mod", []string{"immutability/ledger", "immutability/witness", "immutability/worm"}, "Merkle tree and signed notes"},
	{"github.com/pkg/sftp", []string{"puller/remote", "puller/throwaway", "vault/door"}, "the client in the first, the server in the others"},
	{"golang.org/x/crypto", []string{"puller/remote", "puller/throwaway", "puller/hostile", "puller/sshdtest", "vault/door", "cmd/holdfast", "immutability/quorum"}, "SSH; in cmd for keys and fingerprints; in quorum for signatures of people, which the keeper judges: a library that many look at verifies them better than code of our own"},
	{"github.com/bmatcuk/doublestar", []string{"puller"}, "excludes"},
	{"github.com/prometheus", []string{"metrics"}, "the metrics page"},
	{"github.com/goccy/go-yaml", []string{"config"}, "the configuration"},
	{"github.com/dustin/go-humanize", []string{"config", "cmd/holdfast"}, "sizes as people write and read them"},
	{"github.com/spf13", []string{"cmd/holdfast"}, "the command line"},
	{"github.com/coreos/go-systemd", []string{"cmd/holdfast"}, "saying that the daemon is ready"},
	{"golang.org/x/term", []string{"cmd/holdfast"}, "asking for confirmation"},
	{"golang.org/x/sys", []string{"immutability/durable", "immutability/clock", "immutability/fsck", "immutability/level", "vault/restore", "vault/door", "vault/index", "cmd/holdfast", "cmd/holdfast-keeper", "bench/corpus", "bench/lab"}, "what the kernel offers beyond the standard library"},
	{"golang.org/x/sync", nil, "anywhere: goroutines tied to a scope"},
	{"golang.org/x/time", nil, "anywhere: rates"},
	{"golang.org/x/text", nil, "anywhere: Unicode"},
}

// kernel names calls that belong to few packages: the text is looked for in all files that are not tests.
var kernel = []struct {
	call string
	not  []string // below these; "" is everywhere
	but  []string // except in these packages, or files of them
	why  string
}{
	{"time.Now(", []string{"immutability", "vault"}, []string{"immutability/clock", "vault/door", "immutability/keeper"}, "only clock asks the kernel for the time behind locks; door and keeper need it for deadlines of connections and how often they log, and for nothing that is decided"},
	{"exec.Command", []string{""}, []string{"metrics/promtest", "puller/sshdtest", "immutability/quorum/sktest", "bench/lab", "cmd/holdfast/requestsign.go"}, "the daemon starts no program: in its root there is none; whoever signs a request does so on a machine of their own, with their own ssh-keygen"},
	{`import "C"`, []string{""}, nil, "one static binary"},
}
