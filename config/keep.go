package config

import "time"

// Bounds of the keep rules.
const (
	maxKeep   = 10000
	maxWithin = 100 * Year
)

// Keep are the keep rules: of how many hours, days, weeks, months and years one snapshot each is kept once its lock has run,
// and for how long every one is. Zero is not said.
type Keep struct {
	Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                 time.Duration // whole seconds
}

type rawKeep struct {
	Hourly  value `yaml:"hourly"`
	Daily   value `yaml:"daily"`
	Weekly  value `yaml:"weekly"`
	Monthly value `yaml:"monthly"`
	Yearly  value `yaml:"yearly"`
	Within  value `yaml:"within"`
}

// keep reads keep rules. What is said is at least one: a rule that should keep nothing is left out.
func (r *reader) keep(p *page, raw rawKeep) Keep {
	k := Keep{
		Hourly: r.count(p, raw.Hourly, maxKeep), Daily: r.count(p, raw.Daily, maxKeep), Weekly: r.count(p, raw.Weekly, maxKeep),
		Monthly: r.count(p, raw.Monthly, maxKeep), Yearly: r.count(p, raw.Yearly, maxKeep),
	}
	before := len(r.errs)
	k.Within = r.duration(p, raw.Within, 0)
	switch {
	case !raw.Within.set || len(r.errs) > before:
	case k.Within%time.Second != 0:
		r.bad(p, raw.Within.at, "%q: keep.within is whole seconds", cut(raw.Within.text))
	case k.Within == 0:
		r.bad(p, raw.Within.at, "keep.within is 0 and would keep nothing: remove it")
	case k.Within > maxWithin:
		r.bad(p, raw.Within.at, "keep.within is %s: %s is the most", FormatDuration(k.Within), FormatDuration(maxWithin))
	}
	return k
}

// writtenKeep is the shape of keep rules in a file that is written.
type writtenKeep struct {
	Hourly  int    `yaml:"hourly,omitempty"`
	Daily   int    `yaml:"daily,omitempty"`
	Weekly  int    `yaml:"weekly,omitempty"`
	Monthly int    `yaml:"monthly,omitempty"`
	Yearly  int    `yaml:"yearly,omitempty"`
	Within  string `yaml:"within,omitempty"`
}

func (k Keep) written() writtenKeep {
	w := writtenKeep{Hourly: k.Hourly, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly, Yearly: k.Yearly}
	if k.Within != 0 {
		w.Within = FormatDuration(k.Within)
	}
	return w
}
