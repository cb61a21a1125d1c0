package sandbox

import (
	"hash/maphash"
	"time"
)

// maxIndexed is how many frames of a stream are remembered: one file of the engine's log (10 MiB) has no more.
const maxIndexed = 1 << 17

// frameIndex remembers the last frames of a stream by a fingerprint of their time and text. Frames are numbered from 0.
type frameIndex struct {
	ring  []uint64       // frame n at n % maxIndexed
	first map[uint64]int // number of the first remembered frame with a fingerprint
	next  int            // number of the frame to come
}

var fingerprints = maphash.MakeSeed()

func fingerprint(frame []byte) uint64 { return maphash.Bytes(fingerprints, frame) }

func (s *frameIndex) add(sum uint64) {
	if s.first == nil {
		s.first = make(map[uint64]int)
	}
	if len(s.ring) < maxIndexed {
		s.ring = append(s.ring, sum)
	} else {
		at := s.next % maxIndexed
		if old := s.ring[at]; s.first[old] == s.next-maxIndexed {
			delete(s.first, old)
		}
		s.ring[at] = sum
	}
	if _, twin := s.first[sum]; !twin {
		s.first[sum] = s.next
	}
	s.next++
}

// matches says whether frame n has that fingerprint.
func (s *frameIndex) matches(n int, sum uint64) bool {
	return n < s.next && s.ring[n%maxIndexed] == sum
}

// find is the number of the first remembered frame with that fingerprint.
func (s *frameIndex) find(sum uint64) (n int, known bool) {
	n, known = s.first[sum]
	return n, known
}

// history says of each frame of a stream whether it came before. Engines repeat frames: 20.10 may send a whole file of a
// log again after it has rotated it, and a log that is read again begins before the point at which the last reading ended.
//
// Times alone can't decide that: the clock may have been set back, and then new frames have the times of old ones. Texts can't either: a
// pack may print the same line for hours. A frame is a repetition if it is a remembered one by time and text, and comes in the
// remembered order.
type history struct {
	frames frameIndex
	cursor int       // number of the frame that a repetition has reached; frames.next while nothing is repeated
	newest time.Time // of all frames
	last   time.Time // of the frame before

	reached int // how many frames a new reading of the log has recognised, counted from 0 to the last of them
}

// repeated says whether a frame is a repetition, and remembers it if not. Frames with equal times and texts that follow each other
// directly are no repetition: a coarse clock gives equal times to lines that were printed one after the other.
func (h *history) repeated(at time.Time, sum uint64) bool {
	if h.frames.matches(h.cursor, sum) {
		h.cursor++
		return true
	}
	if at.Before(h.newest) && !at.Equal(h.last) {
		if n, known := h.frames.find(sum); known {
			h.cursor = n + 1
			return true
		}
	}
	h.remember(at, sum)
	return false
}

func (h *history) remember(at time.Time, sum uint64) {
	h.frames.add(sum)
	h.cursor, h.last = h.frames.next, at
	if at.After(h.newest) {
		h.newest = at
	}
}

// frameClass is what a frame of a log that is read again is.
type frameClass int

const (
	frameGiven   frameClass = iota // it was given by an earlier reading
	frameNew                       // it comes after all frames that were given
	frameOmitted                   // it stands among those that were given, and was not: the engine left it out
	frameBefore                    // it may stand before all frames that were given
)

// classifyReread classifies a frame of a log that is read again from its beginning. aligned says whether any frame of the log, of
// either stream, has been recognised in this reading: until then, unknown frames may be older than all that were given.
func (h *history) classifyReread(sum uint64, aligned bool) frameClass {
	switch n, remembered := h.frames.find(sum); {
	case h.frames.next > 0 && h.reached == h.frames.next:
		return frameNew
	case h.frames.matches(h.cursor, sum):
		h.cursor++
	case remembered:
		h.cursor = n + 1
	case !aligned, h.reached == 0 && h.frames.next > maxIndexed: // or older than what is remembered
		return frameBefore
	case h.frames.next == 0:
		return frameNew
	default:
		return frameOmitted
	}
	h.reached = max(h.reached, h.cursor)
	return frameGiven
}
