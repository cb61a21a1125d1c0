package watch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Scan is one scan of a pack's folder. It begins before anything of the folder is read. It is the tree.Visitor that watches
// what is visited: each folder before its names are read, and each file that has several names, since it can be written to
// through a name outside of the folder.
//
// The order matters. A folder that is watched only after it was read could change in between, without an event.
type Scan struct {
	w          *Watcher
	pack       *watchedPack
	seq        uint64
	device     uint64
	seen       map[int]struct{}
	incomplete bool // something in the folder can't be watched
}

// BeginScan begins a scan; Done or Drop ends it. executable says that the pack may run. Packs that may not run are watched only
// while fewer than half of the watches are in use, and give theirs up for those that may.
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

// Folder implements tree.Visitor: it watches the folder.
func (s *Scan) Folder(fd int, st *unix.Stat_t) error {
	if s.device == 0 {
		s.device = uint64(st.Dev)
		s.incomplete = !onLocalFilesystem(fd)
	}
	s.watch(fd, st, folderMask)
	return nil
}

// File implements tree.Visitor. A file with one name is watched through its folder; one with several gets a watch of its own.
func (s *Scan) File(parent int, name string, st *unix.Stat_t) error {
	if st.Nlink == 1 {
		if uint64(st.Dev) != s.device {
			s.incomplete = true
		}
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		s.incomplete = true // the file was removed or replaced during the scan
		return nil
	}
	defer unix.Close(fd)
	s.watch(fd, st, contentMask)
	return nil
}

func (s *Scan) watch(fd int, st *unix.Stat_t, mask uint32) {
	if uint64(st.Dev) != s.device {
		s.incomplete = true // another file system is mounted there; it may be one without events
	}
	w := s.w
	w.mu.Lock() // held until w.watches knows the new watch: otherwise receive could drop an event of it as nobody's
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

// errLimit says that the watcher has all the watches that it may have.
var errLimit = errors.New("limit of watches reached")

// reserve adds a watch for a pack; wd is -1 if the pack may not run and has to do without. For a pack that may run it takes the
// watches of packs that may not; mu is held.
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
			other.seq++ // a scan of it that is under way has lost watches, so it must not end as clean
			w.release(other, nil)
			freed = true
		}
	}
	if !freed {
		return 0, err
	}
	return w.add(fd, mask)
}

// add adds a watch and enforces the limit. A folder that is watched already keeps its watch, and counts once; mu is held.
func (w *Watcher) add(fd int, mask uint32) (int, error) {
	wd, err := w.queue.add(fd, mask)
	if err == nil && w.watches[wd] == nil && len(w.watches)+len(w.dirs) >= w.Limit {
		w.queue.remove(wd)
		return 0, errLimit
	}
	return wd, err
}

// logLimit logs once that not every pack can be watched; mu is held.
func (w *Watcher) logLimit(err error) {
	if w.limitLogged {
		return
	}
	w.limitLogged = true
	w.Log.Warn("cannot watch every pack; packs that are not watched are scanned periodically", "reason", watchProblem(err), "watches", len(w.watches), "error", err)
}

// watchProblem says why something can't be watched, and how to mend it.
func watchProblem(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, errLimit):
		return "the limit of watches is reached: raise fs.inotify.max_user_watches"
	case errors.Is(err, unix.EMFILE):
		return "the limit of inotify instances is reached: raise fs.inotify.max_user_instances, and restart approval"
	}
	return "error"
}

// Done ends a scan that found what the pack's record says. The pack is Unchanged until something happens, if all of it could be
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

// Drop ends a scan that failed, or found something that the record doesn't say. The pack is not Unchanged.
func (s *Scan) Drop() {
	s.end(func() { s.pack.cleanSeq, s.pack.complete = 0, false })
}

// end ends the scan. update changes what is known of the pack, unless the pack was forgotten meanwhile.
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
