package hostile

// limitRows answer no READ of more than 32 KiB, as old servers do, and say so or do not.
func limitRows() []Behaviour {
	const most = 32 << 10
	strict := func(offers bool) func(s *session, r request) bool {
		return func(s *session, r request) bool {
			switch {
			case r.kind == fxInit && !offers:
				s.version(3)
			case r.kind == fxExtended && offers:
				s.limits(r, most+1024, most)
			case r.kind == fxRead && r.length > most:
				if offers {
					s.status(r.id, failure) // it was told
					return true
				}
				r.length = most
				s.honest(r)
			default:
				return false
			}
			return true
		}
	}
	return []Behaviour{
		{Name: "limits-32k", Does: "says that it answers 32 KiB, and fails what asks for more", Outcome: Whole, answer: strict(true)},
		{Name: "no-limits-32k", Does: "has no limits@openssh.com, and answers 32 KiB of what asks for more", Outcome: Whole, answer: strict(false)},
	}
}
