package denials

import "container/list"

// recent are the last MaxDenials distinct denials of a pack that the store doesn't have yet. The bound keeps a pack that
// tries ever new hosts from filling memory while the database doesn't answer.
type recent struct {
	byKey map[Key]*list.Element
	order *list.List // of *Denial, the least recent first
}

func newRecent() *recent { return &recent{make(map[Key]*list.Element), list.New()} }

// add counts a denial. It must be at least as recent as those that were added before.
func (r *recent) add(d Denial) {
	if e := r.byKey[d.Key]; e != nil {
		known := e.Value.(*Denial)
		known.Count += d.Count
		known.LastSeen = d.LastSeen
		r.order.MoveToBack(e)
		return
	}
	if len(r.byKey) == MaxDenials {
		oldest := r.order.Front()
		delete(r.byKey, oldest.Value.(*Denial).Key)
		r.order.Remove(oldest)
	}
	r.byKey[d.Key] = r.order.PushBack(&d)
}

// appendTo appends the denials to a list, the least recent first.
func (r *recent) appendTo(all []Denial) []Denial {
	for e := r.order.Front(); e != nil; e = e.Next() {
		all = append(all, *e.Value.(*Denial))
	}
	return all
}
