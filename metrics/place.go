package metrics

import "strconv"

// Place is one of the directories that the vault lies in.
type Place struct {
	Number      int
	Reachable   bool   // else the rest is not known
	Free, Total uint64 // of its file system, in bytes
}

var (
	placeReachable = gauge("place_reachable", "Whether the place of the vault with that number answers: 1 or 0. Place 1 is the vault's own directory.", "place")
	placeFree      = gauge("place_free_bytes", "Room that the vault may still fill on the file system of the place; absent while it does not answer.", "place")
	placeSize      = gauge("place_size_bytes", "Size of the file system of the place; absent while it does not answer.", "place")

	ofPlaces = []series{placeReachable, placeFree, placeSize}
)

func (p page) places(all []Place) {
	for _, v := range all {
		number := strconv.Itoa(v.Number)
		p.put(placeReachable, one(v.Reachable), number)
		if v.Reachable {
			p.put(placeFree, float64(v.Free), number)
			p.put(placeSize, float64(v.Total), number)
		}
	}
}
