package metrics

import (
	"regexp"
	"slices"
	"strconv"
)

var (
	sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	errorKind  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

const (
	maxKinds = 32
	// OtherKind gathers errors of a kind that is no word of ours, and of kinds beyond the first 32 of a source.
	OtherKind = "other"
)

func validName(s string) bool { return sourceName.MatchString(s) }

// boundedKinds gives at most maxKinds kinds with valid names, nothing lost: the rest is summed into OtherKind. Which
// kinds stay depends on their names alone, so that a series does not come and go.
func boundedKinds(errors map[string]uint64) map[string]uint64 {
	kinds := make([]string, 0, len(errors))
	for kind := range errors {
		if errorKind.MatchString(kind) && kind != OtherKind {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	kinds = kinds[:min(len(kinds), maxKinds-1)]
	bounded := make(map[string]uint64, len(kinds)+1)
	var known uint64
	for _, kind := range kinds {
		bounded[kind] = errors[kind]
		known += errors[kind]
	}
	var all uint64
	for _, n := range errors {
		all += n
	}
	if _, asked := errors[OtherKind]; asked || all > known {
		bounded[OtherKind] = all - known
	}
	return bounded
}

// label makes any text a short label of visible ASCII.
func label(s string) string {
	const most = 128
	quoted := strconv.QuoteToASCII(s[:min(len(s), most)])
	return quoted[1 : len(quoted)-1]
}
