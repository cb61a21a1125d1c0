package watch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Look is one look at a pack's folder, from before anything of it is read. It is the tree.Visitor that watches what is
// seen: each folder before its names are read, and each file that has other names, which somebody may write to.
type Look struct {
	w       *Watcher
	pack    *followed
	seq     uint64
	device  uint64
	seen    map[int]struct{}
	partial bool // something in it can't be watched
}

// Begin begins a look; Done or Drop ends it. may says that the pack may run: others are watched only while there is
// plenty of room.
func (w *Watcher) Begin(packID string, may bool) *Look {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.packs[packID]
	if !ok {
		p = &followed{id: packID, seq: 1, mine: map[int]struct{}{}}
		w.packs[packID] = p
	}
	p.may = may
	p.looked++
	return &Look{w: w, pack: p, seq: p.seq, seen: map[int]struct{}{}}
}

// Folder implements tree.Visitor.
func (l *Look) Folder(fd int, st *unix.Stat_t) error {
	if l.device == 0 {
		l.device = uint64(st.Dev)
		l.partial = !onLocal(fd)
	}
	l.watch(fd, st, folderMask)
	return nil
}

// File implements tree.Visitor. A file with one name is seen through its folder.
func (l *Look) File(parent int, name string, st *unix.Stat_t) error {
	if st.Nlink == 1 {
		if uint64(st.Dev) != l.device {
			l.partial = true
		}
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		l.partial = true // it is changing
		return nil
	}
	defer unix.Close(fd)
	l.watch(fd, st, contentMask)
	return nil
}

func (l *Look) watch(fd int, st *unix.Stat_t, mask uint32) {
	if uint64(st.Dev) != l.device {
		l.partial = true // another file system is mounted there, of whatever kind
	}
	w := l.w
	w.mu.Lock() // from before the watch is there until it is known whose it is: receive waits
	defer w.mu.Unlock()
	wd, err := w.reserve(l.pack, fd, mask)
	if err != nil {
		l.partial = true
		w.sayLimited(err)
		return
	}
	if wd < 0 {
		l.partial = true
		return
	}
	if w.watches[wd] == nil {
		w.watches[wd] = map[*followed]struct{}{}
	}
	w.watches[wd][l.pack] = struct{}{}
	l.pack.mine[wd] = struct{}{}
	l.seen[wd] = struct{}{}
}

// errLimit is that the watcher has all the watches that it may have.
var errLimit = errors.New("limit of watches reached")

// reserve adds a watch for a pack, -1 where a pack that may not run has to do without. A pack that may run takes from
// the others; mu is held.
func (w *Watcher) reserve(p *followed, fd int, mask uint32) (wd int, err error) {
	if !p.may && len(w.watches) >= w.Limit/2 {
		return -1, nil
	}
	if wd, err = w.add(fd, mask); err == nil || !p.may {
		return wd, err
	}
	freed := false
	for _, other := range w.packs {
		if !other.may && len(other.mine) > 0 {
			other.clean, other.whole = 0, false
			other.seq++ // a look at it that is under way covers nothing
			w.release(other, nil)
			freed = true
		}
	}
	if !freed {
		return 0, err
	}
	return w.add(fd, mask)
}

// add counts only what is new: a folder that is watched already keeps its watch.
func (w *Watcher) add(fd int, mask uint32) (int, error) {
	wd, err := w.queue.add(fd, mask)
	if err == nil && w.watches[wd] == nil && len(w.watches)+len(w.places) >= w.Limit {
		w.queue.remove(wd)
		return 0, errLimit
	}
	return wd, err
}

// sayLimited says once that watching has come to an end; mu is held.
func (w *Watcher) sayLimited(err error) {
	if w.limited {
		return
	}
	w.limited = true
	w.Log.Warn("cannot watch every pack; those that are not watched are looked at in turns", "reason", reason(err), "watches", len(w.watches), "error", err)
}

// reason says why something can't be watched, and what mends it.
func reason(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, errLimit):
		return "the limit of watches is reached: raise fs.inotify.max_user_watches"
	case errors.Is(err, unix.EMFILE):
		return "the limit of inotify instances is reached: raise fs.inotify.max_user_instances, and restart approval"
	}
	return "error"
}

// Done ends a look that found what there should be: until something happens the pack is Unchanged, if all of it could be
// watched.
func (l *Look) Done() {
	l.end(func() {
		l.pack.whole = !l.partial
		l.pack.clean = 0
		if l.pack.whole {
			l.pack.clean = l.seq
		}
	})
}

// Drop ends a look that found something else, or failed.
func (l *Look) Drop() {
	l.end(func() { l.pack.clean, l.pack.whole = 0, false })
}

func (l *Look) end(judge func()) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.pack.looked--
	if l.w.packs[l.pack.id] != l.pack { // forgotten meanwhile
		l.w.release(l.pack, nil)
		return
	}
	judge()
	if l.pack.whole && l.pack.looked == 0 {
		l.w.release(l.pack, l.seen)
	}
}
