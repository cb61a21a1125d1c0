package sandbox

import (
	"hash/maphash"
	"time"
)

// maxSeen is how many frames of a stream are remembered: what the engine keeps in one file of a log (10 MiB) has no more.
const maxSeen = 1 << 17

// seen remembers the last frames of a stream by a fingerprint of their time and text. Frames are numbered from 0.
type seen struct {
	ring  []uint64       // frame n at n % maxSeen
	first map[uint64]int // number of the first remembered frame with a fingerprint
	next  int            // number of the frame to come
}

var fingerprints = maphash.MakeSeed()

func fingerprint(frame []byte) uint64 { return maphash.Bytes(fingerprints, frame) }

func (s *seen) add(sum uint64) {
	if s.first == nil {
		s.first = make(map[uint64]int)
	}
	if len(s.ring) < maxSeen {
		s.ring = append(s.ring, sum)
	} else {
		at := s.next % maxSeen
		if old := s.ring[at]; s.first[old] == s.next-maxSeen {
			delete(s.first, old)
		}
		s.ring[at] = sum
	}
	if _, twin := s.first[sum]; !twin {
		s.first[sum] = s.next
	}
	s.next++
}

// is says whether frame n has that fingerprint.
func (s *seen) is(n int, sum uint64) bool { return n < s.next && s.ring[n%maxSeen] == sum }

// find is the number of the first remembered frame with that fingerprint.
func (s *seen) find(sum uint64) (n int, known bool) {
	n, known = s.first[sum]
	return n, known
}

// history says of each frame of a stream whether it came before. Engines repeat frames: 20.10 may send a whole file of a
// log again after it has rotated it, and a log that is read anew begins before the place where the last reading ended.
//
// Times alone can't say that: the clock may have been set back, and then what is new has the times of what is old. A
// frame came before if it is exactly one that was remembered, by time and text, and stands where that one's turn was.
type history struct {
	seen   seen
	cursor int       // number of the frame that a repetition has reached; seen.next while nothing is repeated
	newest time.Time // of all frames
	last   time.Time // of the frame before

	reached int // how many frames a new reading of the log has recognised, counted from 0 to the last of them
}

// repeated says whether a frame is a repetition. One that is not is remembered. Frames with equal times and texts that follow each
// other directly are no repetition: a coarse clock gives such times to lines that were printed one after the other.
func (h *history) repeated(at time.Time, sum uint64) bool {
	if h.seen.is(h.cursor, sum) {
		h.cursor++
		return true
	}
	if at.Before(h.newest) && !at.Equal(h.last) {
		if n, known := h.seen.find(sum); known {
			h.cursor = n + 1
			return true
		}
	}
	h.remember(at, sum)
	return false
}

func (h *history) remember(at time.Time, sum uint64) {
	h.seen.add(sum)
	h.cursor, h.last = h.seen.next, at
	if at.After(h.newest) {
		h.newest = at
	}
}

// verdict is what a frame of a log that is read anew is.
type verdict int

const (
	known  verdict = iota // it was given
	later                 // it comes after all that were given
	missed                // it stands among those that were given and was not
	before                // it may stand before all that were given
)

// again judges a frame of a log that is read anew from its beginning. aligned says whether any frame of the log, of
// whichever stream, has been recognised in this reading.
func (h *history) again(sum uint64, aligned bool) verdict {
	switch n, remembered := h.seen.find(sum); {
	case h.seen.next > 0 && h.reached == h.seen.next:
		return later
	case h.seen.is(h.cursor, sum):
		h.cursor++
	case remembered:
		h.cursor = n + 1
	case !aligned, h.reached == 0 && h.seen.next > maxSeen: // or older than what is remembered
		return before
	case h.seen.next == 0:
		return later
	default:
		return missed
	}
	h.reached = max(h.reached, h.cursor)
	return known
}
