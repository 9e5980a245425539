package metrics

import "time"

// People is what is known of the people whose signatures make the vault forget faster, of what they asked for, and of the panic
// switch.
type People struct {
	Count, Threshold uint64    // of those in force; nought: nobody can loosen anything
	Pending          time.Time // when others count, if the machine stays on; zero when nobody else was proposed
	// Waiting counts requests that wait, by action; Ended those that do not wait any more.
	Waiting map[string]uint64
	Ended   map[RequestEnd]uint64
	NextDue time.Time // when the first that waits is carried out, if the machine stays on; zero when none waits
	Secured time.Time // since when the panic switch is on; zero when it is off
}

// RequestEnd is how a request ended.
type RequestEnd struct{ Action, State string }

// RequestActions and RequestStates are the labels that there are: a request of a later release counts as "other".
var (
	RequestActions = []string{"delete", "release", "policy", "people", "clock", "resume", "origin", OtherKind}
	RequestStates  = []string{"carried", "failed", "vetoed", "lapsed"}
)

var (
	people          = gauge("people", "People in force, of whom several must sign what makes the vault forget faster; 0 while there are none, and then nobody can.")
	peopleThreshold = gauge("people_threshold", "How many of them must sign; 0 while there are none.")
	peoplePending   = gauge("people_pending_timestamp_seconds", "When the people that were proposed count; absent when none are.")
	requestsWaiting = gauge("requests_waiting", "Requests with enough signatures that wait to be carried out, by what they ask for. Anybody who may run commands can stop one.", "action")
	requestNextDue  = gauge("request_next_due_timestamp_seconds", "When the first of them is carried out, if the machine stays on and nobody stops it; absent when none waits.")
	requestsTotal   = counter("requests_total", "Requests that do not wait any more, by what they asked for and what became of them; from the ledger, so it survives restarts.", "action", "state")
	secured         = gauge("secured", "1 while the panic switch is on: nothing is removed, and nothing is loosened. Else 0.")
	securedSince    = gauge("secured_since_timestamp_seconds", "When the panic switch was pressed first; absent while it is off.")

	ofPeople = []series{people, peopleThreshold, peoplePending, requestsWaiting, requestNextDue, requestsTotal, secured, securedSince}
)

func (p page) people(v People) {
	p.put(people, float64(v.Count))
	p.put(peopleThreshold, float64(v.Threshold))
	if !v.Pending.IsZero() {
		p.put(peoplePending, seconds(v.Pending))
	}
	for _, action := range RequestActions {
		p.put(requestsWaiting, float64(v.Waiting[action]), action)
		for _, state := range RequestStates { // all of them from the first scrape on, else Prometheus misses the first of each
			p.put(requestsTotal, float64(v.Ended[RequestEnd{action, state}]), action, state)
		}
	}
	if !v.NextDue.IsZero() {
		p.put(requestNextDue, seconds(v.NextDue))
	}
	p.put(secured, one(!v.Secured.IsZero()))
	if !v.Secured.IsZero() {
		p.put(securedSince, seconds(v.Secured))
	}
}
