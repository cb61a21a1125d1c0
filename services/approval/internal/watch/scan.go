package watch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Look is one look at a pack's folder, from before anything of it is read. It is the tree.Visitor that watches what is
// seen: each folder before its names are read, and each file that has other names, which somebody may write to.
type Scan struct {
	w          *Watcher
	pack       *watchedPack
	seq        uint64
	device     uint64
	seen       map[int]struct{}
	incomplete bool // something in it can't be watched
}

// Begin begins a look; Done or Drop ends it. may says that the pack may run: others are watched only while there is
// plenty of room.
func (w *Watcher) BeginScan(packID string, executable bool) *Scan {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.packs[packID]
	if !ok {
		p = &watchedPack{id: packID, seq: 1, watches: map[int]struct{}{}}
		w.packs[packID] = p
	}
	p.executable = executable
	p.scans++
	return &Scan{w: w, pack: p, seq: p.seq, seen: map[int]struct{}{}}
}

// Folder implements tree.Visitor.
func (s *Scan) Folder(fd int, st *unix.Stat_t) error {
	if s.device == 0 {
		s.device = uint64(st.Dev)
		s.incomplete = !onLocalFilesystem(fd)
	}
	s.watch(fd, st, folderMask)
	return nil
}

// File implements tree.Visitor. A file with one name is seen through its folder.
func (s *Scan) File(parent int, name string, st *unix.Stat_t) error {
	if st.Nlink == 1 {
		if uint64(st.Dev) != s.device {
			s.incomplete = true
		}
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		s.incomplete = true // it is changing
		return nil
	}
	defer unix.Close(fd)
	s.watch(fd, st, contentMask)
	return nil
}

func (s *Scan) watch(fd int, st *unix.Stat_t, mask uint32) {
	if uint64(st.Dev) != s.device {
		s.incomplete = true // another file system is mounted there, of whatever kind
	}
	w := s.w
	w.mu.Lock() // from before the watch is there until it is known whose it is: receive waits
	defer w.mu.Unlock()
	wd, err := w.reserve(s.pack, fd, mask)
	if err != nil {
		s.incomplete = true
		w.logLimit(err)
		return
	}
	if wd < 0 {
		s.incomplete = true
		return
	}
	if w.watches[wd] == nil {
		w.watches[wd] = map[*watchedPack]struct{}{}
	}
	w.watches[wd][s.pack] = struct{}{}
	s.pack.watches[wd] = struct{}{}
	s.seen[wd] = struct{}{}
}

// errLimit is that the watcher has all the watches that it may have.
var errLimit = errors.New("limit of watches reached")

// reserve adds a watch for a pack, -1 where a pack that may not run has to do without. A pack that may run takes from
// the others; mu is held.
func (w *Watcher) reserve(p *watchedPack, fd int, mask uint32) (wd int, err error) {
	if !p.executable && len(w.watches) >= w.Limit/2 {
		return -1, nil
	}
	if wd, err = w.add(fd, mask); err == nil || !p.executable {
		return wd, err
	}
	freed := false
	for _, other := range w.packs {
		if !other.executable && len(other.watches) > 0 {
			other.cleanSeq, other.complete = 0, false
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
	if err == nil && w.watches[wd] == nil && len(w.watches)+len(w.dirs) >= w.Limit {
		w.queue.remove(wd)
		return 0, errLimit
	}
	return wd, err
}

// sayLimited says once that watching has come to an end; mu is held.
func (w *Watcher) logLimit(err error) {
	if w.limitLogged {
		return
	}
	w.limitLogged = true
	w.Log.Warn("cannot watch every pack; those that are not watched are looked at in turns", "reason", watchProblem(err), "watches", len(w.watches), "error", err)
}

// reason says why something can't be watched, and what mends it.
func watchProblem(err error) string {
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
func (s *Scan) Done() {
	s.end(func() {
		s.pack.complete = !s.incomplete
		s.pack.cleanSeq = 0
		if s.pack.complete {
			s.pack.cleanSeq = s.seq
		}
	})
}

// Drop ends a look that found something else, or failed.
func (s *Scan) Drop() {
	s.end(func() { s.pack.cleanSeq, s.pack.complete = 0, false })
}

func (s *Scan) end(update func()) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.pack.scans--
	if s.w.packs[s.pack.id] != s.pack { // forgotten meanwhile
		s.w.release(s.pack, nil)
		return
	}
	update()
	if s.pack.complete && s.pack.scans == 0 {
		s.w.release(s.pack, s.seen)
	}
}
