// Package metrics shows the state of a vault to Prometheus.
//
// Nothing is counted here twice: at every scrape the page is built from one State, plain numbers that the daemon
// takes from ledger, manifests and running pulls. The names of the series are for good. Labels come from the
// configuration alone (source, mode, kind), with the ledger's root as the one exception, so a hostile source cannot
// make series.
package metrics

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// State is what a scrape asks for. Both methods are called at every scrape, from several goroutines, and should answer
// from memory.
type State interface {
	Sources() []SourceState
	Vault() VaultState
}

// SourceState is what is known of one source. Times that are zero mean never.
type SourceState struct {
	Name string
	// Enrolled sources show every series from the first day, so that one which never was pulled raises an alert;
	// the others (known from old snapshots only) show what there is.
	Enrolled      bool
	LastAttempt   time.Time // when the newest pull began, whatever became of it
	LastSuccess   time.Time // when the newest complete snapshot was committed
	RecoveryPoint time.Time // when the newest complete snapshot began: the age of what would come back
	LastPull      Pull      // the newest pull that committed
	Running       Running   // the pull that runs now
	Errors        map[string]uint64
}

// Pull is the account of one committed pull.
type Pull struct {
	Duration     time.Duration
	Files        uint64 // files in the snapshot
	ReadBytes    uint64 // read from the source
	NewBytes     uint64 // content the vault did not hold
	StoredBytes  uint64 // what that took on disk
	PartialPaths uint64 // paths that could not be had
}

// Running is a pull that runs. The zero Running is none.
type Running struct {
	Pulls    int       // that run; one, but for a moment in which a second is refused
	Began    time.Time // the first of them
	Progress Progress
}

// Progress is how far a pull has come.
type Progress struct {
	Files, DoneBytes       uint64 // dealt with: read, or found unchanged
	TotalFiles, TotalBytes uint64 // that there will be, if TotalKnown
	TotalKnown             bool
	ReadBytes              uint64 // read from the source
	BytesPerSecond         uint64 // lately
	NewBytes, KnownBytes   uint64 // of the bytes done: what the vault did not hold, and what it held; if NewKnown
	NewKnown               bool
	Left                   time.Duration // until everything is read, if LeftKnown
	LeftKnown              bool
}

// VaultState is what is known of the vault as a whole.
type VaultState struct {
	Locks        map[string]Locks // by mode; absent means none
	LedgerSize   uint64           // leaves
	LedgerRoot   string           // the Merkle root at that size, base64 as in the checkpoint
	CosignedSize uint64           // leaves that the newest cosigned checkpoint covers; 0 if there is none
	Witnesses    Witnesses
	LastCosigned time.Time // when a witness cosigned it, as it claims; zero if none did
	Protection   string    // the level that holds, one of the words of Levels; any other is not known
	Packs        uint64    // sealed and not removed
	PackBytes    uint64
	DeadBytes    uint64 // of these, what no current snapshot uses
	Evacuable    uint64 // of these, what lies in packs that sessions leave
	Prune        Prune
	LogicalBytes uint64 // of all files of all snapshots, as if each were stored alone
	UniqueBytes  uint64 // of all chunks held, before compression
	StoredBytes  uint64 // of all chunks held, compressed and encrypted
	Clock        *Clock // nil while the clocks cannot be read
	Promises     Promises
	Places       []Place // the vault's own directory first
	People       *People // nil while that cannot be told
}

// Clock is how the vault's clocks stand.
type Clock struct {
	Shifted     bool          // nothing expires
	Off         time.Duration // by how much the wall clock is ahead of what running time says
	Running     time.Duration // credited since the vault was made
	Late        time.Duration // by how much the latest running lock ends after its date
	Corrections uint64        // records of a wall clock that moved
}

// Locks is what is known of the running locks of one mode.
type Locks struct {
	Running    uint64    // snapshots with a lock that runs
	NextExpiry time.Time // when the first of them runs out, by the wall clock; zero when none runs
}

// Build is what the program says of itself.
type Build struct {
	Version, Revision, GoVersion string
}

// Options of a registry.
type Options struct {
	Build   Build
	Now     func() time.Time // nil: time.Now
	Runtime bool             // add the series of the Go runtime and of the process
}

// NewRegistry gives a registry whose every scrape asks s. It is safe for concurrent use if s is.
func NewRegistry(s State, o Options) *prometheus.Registry {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(&collector{state: s, now: o.Now, build: o.Build})
	if o.Runtime {
		r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	return r
}

// series is one name with its meaning and labels.
type series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) series {
	return series{prometheus.NewDesc("holdfast_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) series {
	return series{prometheus.NewDesc("holdfast_"+name, help, labels, nil), prometheus.CounterValue}
}

var (
	lastSuccess  = gauge("source_last_success_timestamp_seconds", "When the newest complete snapshot of the source was committed; 0 if never.", "source")
	lastAttempt  = gauge("source_last_attempt_timestamp_seconds", "When the newest pull of the source began, whatever became of it; 0 if never.", "source")
	rpoAge       = gauge("source_rpo_age_seconds", "Age of the data that would come back: seconds since the newest complete snapshot of the source began; +Inf if there is none.", "source")
	pullDuration = gauge("source_last_pull_duration_seconds", "How long the newest committed pull of the source took.", "source")
	pullFiles    = gauge("source_last_pull_files", "Files in the snapshot of the newest committed pull of the source.", "source")
	pullRead     = gauge("source_last_pull_read_bytes", "File content read from the source in its newest committed pull.", "source")
	pullNew      = gauge("source_last_pull_new_bytes", "Content in the newest committed pull of the source that the vault did not hold yet.", "source")
	pullStored   = gauge("source_last_pull_stored_bytes", "What the newest committed pull of the source added to the packs, compressed and encrypted.", "source")
	pullPartial  = gauge("source_last_pull_partial_paths", "Paths that could not be had in the newest committed pull of the source; above 0 the snapshot is partial.", "source")
	running      = gauge("source_pull_running", "Whether a pull of the source runs: 1 or 0.", "source")
	runBegan     = gauge("source_pull_start_timestamp_seconds", "When the pull that runs began; absent if none runs, as all that follows.", "source")
	runFiles     = gauge("source_pull_files", "Files that the running pull has dealt with: read, or found unchanged.", "source")
	runAllFiles  = gauge("source_pull_total_files", "Files that the running pull will have to deal with, as far as is known; absent while nothing is.", "source")
	runDone      = gauge("source_pull_done_bytes", "Content of those files, and what is read of others.", "source")
	runAll       = gauge("source_pull_total_bytes", "Content that the running pull will have to deal with, as far as is known; absent while nothing is.", "source")
	runRead      = gauge("source_pull_read_bytes", "File content that the running pull has read from the source.", "source")
	runRate      = gauge("source_pull_read_bytes_per_second", "How fast it read within the last 15 seconds.", "source")
	runNew       = gauge("source_pull_new_bytes", "Content in the running pull that the vault did not hold yet.", "source")
	runKnown     = gauge("source_pull_known_bytes", "Content in the running pull that the vault held already, read or not.", "source")
	runLeft      = gauge("source_pull_eta_seconds", "Seconds until the running pull will have read everything, at the rate of late; absent while unknown.", "source")
	errorsTotal  = counter("source_errors_total", "Errors while pulling the source, by kind; rebuilt from the manifests at start.", "source", "kind")
	locks        = gauge("locks", "Snapshots whose lock runs, by mode.", "mode")
	nextExpiry   = gauge("lock_next_expiry_timestamp_seconds", "When the first running lock of the mode runs out; absent if none runs.", "mode")
	ledgerSize   = gauge("ledger_size", "Records in the ledger; it never goes down.")
	ledgerRoot   = gauge("ledger_root_info", "Merkle root of the ledger at its present size; always 1.", "root")
	cosignedSize = gauge("ledger_cosigned_size", "Records that the newest checkpoint covers which a witness cosigned; 0 if none did.")
	lastCosigned = gauge("ledger_last_cosignature_timestamp_seconds", "When a witness cosigned the ledger last, as the witness says; absent if none did.")
	cosignLag    = gauge("ledger_cosign_lag_records", "Records of the ledger that no witness has cosigned yet.")
	protection   = gauge("protection_level", "Whether the sealed files have at least this protection, found out by trying to break it: 1 or 0; absent while nobody has tried.", "level")
	packs        = gauge("packs", "Sealed packs in the vault.")
	packBytes    = gauge("pack_bytes", "Bytes of the sealed packs.")
	deadBytes    = gauge("pinned_dead_bytes", "Bytes of the sealed packs that the newest snapshots do not use: locks keep them, or they wait for their evacuation.")
	dedupRatio   = gauge("dedup_ratio", "Bytes of all files of all snapshots, divided by the bytes of the chunks that hold them before compression; 1 for an empty vault.")
	compression  = gauge("compression_ratio", "Bytes of the chunks before compression, divided by their bytes in the packs; 1 for an empty vault.")
	clockShifted = gauge("clock_shifted", "Whether the wall clock moved so far against running time that nothing expires: 1 or 0.")
	clockOff     = gauge("clock_wall_offset_seconds", "By how much the wall clock is ahead of what running time says; negative if behind.")
	clockRunning = gauge("clock_running_seconds", "Running time credited since the vault was made; it never goes down.")
	clockLate    = gauge("clock_locks_late_seconds", "By how much the latest running lock ends after its date, for time in which the vault did not run.")
	corrections  = counter("clock_corrections_total", "Records in the ledger of a wall clock that moved by ten minutes or more.")
	buildInfo    = gauge("build_info", "The running program; always 1.", "version", "revision", "goversion")

	bySource = []series{lastSuccess, lastAttempt, rpoAge, pullDuration, pullFiles, pullRead, pullNew, pullStored, pullPartial, errorsTotal,
		running, runBegan, runFiles, runAllFiles, runDone, runAll, runRead, runRate, runNew, runKnown, runLeft}
	ofVault = []series{locks, nextExpiry, ledgerSize, ledgerRoot, cosignedSize, lastCosigned, cosignLag, protection, packs, packBytes, deadBytes, dedupRatio, compression,
		clockShifted, clockOff, clockRunning, clockLate, corrections, buildInfo}
)

// collector turns one State into series. It has no state of its own.
type collector struct {
	state State
	now   func() time.Time
	build Build
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range bySource {
		ch <- s.desc
	}
	for _, s := range ofWitnesses {
		ch <- s.desc
	}
	for _, s := range ofPromises {
		ch <- s.desc
	}
	for _, s := range ofPeople {
		ch <- s.desc
	}
	for _, s := range ofPrune {
		ch <- s.desc
	}
	for _, s := range ofPlaces {
		ch <- s.desc
	}
	for _, s := range ofVault {
		ch <- s.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	p := page{ch: ch}
	now := c.now()
	seen := make(map[string]bool)
	for _, s := range c.state.Sources() {
		// A label that is not a name of ours never came from the configuration, and a name twice would spoil the whole
		// page: Prometheus would lose every series for the sake of one.
		if !validName(s.Name) || seen[s.Name] {
			continue
		}
		seen[s.Name] = true
		p.source(s, now)
	}
	p.vault(c.state.Vault())
	p.put(buildInfo, 1, label(c.build.Version), label(c.build.Revision), label(c.build.GoVersion))
}

// page sends the series of one scrape.
type page struct{ ch chan<- prometheus.Metric }

// put sends one sample. Labels have been through validName or label, so it cannot fail for what they hold.
func (p page) put(s series, v float64, labels ...string) {
	m, err := prometheus.NewConstMetric(s.desc, s.kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(s.desc, err)
	}
	p.ch <- m
}

func (p page) source(s SourceState, now time.Time) {
	pulled := !s.LastSuccess.IsZero() || s.LastPull != (Pull{})
	if s.Enrolled || !s.LastSuccess.IsZero() {
		p.put(lastSuccess, seconds(s.LastSuccess), s.Name)
		age := math.Inf(1)
		if !s.RecoveryPoint.IsZero() {
			age = now.Sub(s.RecoveryPoint).Seconds()
		}
		p.put(rpoAge, age, s.Name)
	}
	if s.Enrolled || !s.LastAttempt.IsZero() {
		p.put(lastAttempt, seconds(s.LastAttempt), s.Name)
	}
	if s.Enrolled || pulled {
		p.put(pullDuration, s.LastPull.Duration.Seconds(), s.Name)
		p.put(pullFiles, float64(s.LastPull.Files), s.Name)
		p.put(pullRead, float64(s.LastPull.ReadBytes), s.Name)
		p.put(pullNew, float64(s.LastPull.NewBytes), s.Name)
		p.put(pullStored, float64(s.LastPull.StoredBytes), s.Name)
		p.put(pullPartial, float64(s.LastPull.PartialPaths), s.Name)
	}
	for kind, n := range boundedKinds(s.Errors) {
		p.put(errorsTotal, float64(n), s.Name, kind)
	}
	p.running(s)
}

// running is the pull of a source that runs.
func (p page) running(s SourceState) {
	r := s.Running
	if r.Pulls == 0 {
		if s.Enrolled {
			p.put(running, 0, s.Name)
		}
		return
	}
	g := r.Progress
	p.put(running, 1, s.Name)
	p.put(runBegan, seconds(r.Began), s.Name)
	p.put(runFiles, float64(g.Files), s.Name)
	p.put(runDone, float64(g.DoneBytes), s.Name)
	p.put(runRead, float64(g.ReadBytes), s.Name)
	p.put(runRate, float64(g.BytesPerSecond), s.Name)
	if g.TotalKnown {
		p.put(runAllFiles, float64(g.TotalFiles), s.Name)
		p.put(runAll, float64(g.TotalBytes), s.Name)
	}
	if g.NewKnown {
		p.put(runNew, float64(g.NewBytes), s.Name)
		p.put(runKnown, float64(g.KnownBytes), s.Name)
	}
	if g.LeftKnown {
		p.put(runLeft, g.Left.Seconds(), s.Name)
	}
}

func (p page) vault(v VaultState) {
	for _, mode := range []string{"governance", "compliance"} {
		l := v.Locks[mode]
		p.put(locks, float64(l.Running), mode)
		if !l.NextExpiry.IsZero() {
			p.put(nextExpiry, seconds(l.NextExpiry), mode)
		}
	}
	p.put(ledgerSize, float64(v.LedgerSize))
	p.put(ledgerRoot, 1, label(v.LedgerRoot))
	p.put(cosignedSize, float64(v.CosignedSize))
	p.put(cosignLag, float64(v.LedgerSize-min(v.CosignedSize, v.LedgerSize)))
	p.witnesses(v.Witnesses)
	if !v.LastCosigned.IsZero() {
		p.put(lastCosigned, seconds(v.LastCosigned))
	}
	p.protection(v.Protection)
	p.put(packs, float64(v.Packs))
	p.put(packBytes, float64(v.PackBytes))
	p.put(deadBytes, float64(v.DeadBytes))
	p.put(evacuableBytes, float64(v.Evacuable))
	p.prune(v.Prune)
	p.put(dedupRatio, ratio(v.LogicalBytes, v.UniqueBytes))
	p.put(compression, ratio(v.UniqueBytes, v.StoredBytes))
	p.promises(v.Promises)
	p.places(v.Places)
	if v.People != nil {
		p.people(*v.People)
	}
	if v.Clock != nil {
		p.clock(*v.Clock)
	}
}

func (p page) clock(c Clock) {
	shifted := 0.0
	if c.Shifted {
		shifted = 1
	}
	p.put(clockShifted, shifted)
	p.put(clockOff, c.Off.Seconds())
	p.put(clockRunning, c.Running.Seconds())
	p.put(clockLate, c.Late.Seconds())
	p.put(corrections, float64(c.Corrections))
}

// Levels are the words for the protection that sealed files have, the weakest first. Each holds what those before it hold,
// so a series that goes from 1 to 0 is a protection that was lost, whichever it is. The first means none and has no series.
var Levels = []string{"none", "ownership", "immutable flag", "witnessed"}

// protection puts a series for each level that could hold.
func (p page) protection(holds string) {
	at := slices.Index(Levels, holds)
	if at < 0 {
		return
	}
	for i, word := range Levels[1:] {
		v := 0.0
		if i+1 <= at {
			v = 1
		}
		p.put(protection, v, word)
	}
}

// seconds is a Unix time, 0 for never.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func ratio(of, by uint64) float64 {
	if of == 0 || by == 0 {
		return 1
	}
	return float64(of) / float64(by)
}
