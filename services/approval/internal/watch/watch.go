// Package watch says which packs may have changed, as soon as the kernel says so, and of which packs it knows that they
// have not.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/pack"
)

// settle is how long events are collected before they are told: one copy of a folder makes thousands.
const debounce = 20 * time.Millisecond

// Config says what a Watcher watches and whom it tells.
type Config struct {
	Root     string // the ecosystem folder
	Limit    int    // watches at most; 0 for what the kernel allows
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	OnChange func(packIDs []string, all bool) // see Run
}

// Watcher watches the folders of packs with inotify. A pack is watched from a look at it on (Begin); where everything
// in it could be watched and nothing happened since, Unchanged says so and nobody need look again.
//
// What is not watched has to be looked at again and again, and so has everything now and then, since there are changes that raise no event:
//
//   - a write through a shared mapping of a file, until that mapping ends (IN_CLOSE_WRITE);
//   - a write through a name outside of the ecosystem folder that a file was given after the look. A file that has
//     several names already is watched by itself, whatever name is used;
//   - a write through an overlay whose upper layer the folder is.
//
// All set the times of change, so a look that reads no content sees them: RUMI_VERIFY_INTERVAL bounds how long they go unnoticed. But
// writes through a mapping to a page that has yet to be written back set none, and are noticed when the mapping
// ends. None of them changes what runs, which is a copy (design.md, decision 1).
//
// Use New.
type Watcher struct {
	Config
	queue  *queue
	mounts *mounts
	stop   chan struct{} // closed by Close
	read   chan struct{} // closed when nothing is read any more
	wake   chan struct{} // something is to be told

	mu          sync.Mutex
	dirs        map[int]string  // the folders that packs lie in, relative to the root, by watch
	unwatchable map[string]bool // those of them that can't be watched: what comes and goes there is not told
	packs       map[string]*watchedPack
	watches     map[int]map[*watchedPack]struct{} // whose folder or file a watch is on; two packs can share a file
	fences      map[int]chan struct{}             // see Fence
	changed     map[string]bool                   // packs to tell of
	allChanged  bool                              // all of them
	limitLogged bool                              // it was said that not everything can be watched
	readErr     error                             // why nothing is read any more
}

// followed is a pack.
type watchedPack struct {
	id         string
	executable bool // it may run, so it goes before those that may not
	seq        uint64
	cleanSeq   uint64 // seq at the beginning of the last look that covered all; 0 for none
	complete   bool   // the last look covered all
	watches    map[int]struct{}
	scans      int // looks under way
}

// New makes a watcher; Close ends it.
func New(cfg Config) (w *Watcher, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("watch packs: %w", err)
		}
	}()
	q, err := newQueue()
	if err != nil {
		return nil, err
	}
	m, err := openMounts(cfg.Root)
	if err != nil {
		return nil, errors.Join(err, q.close())
	}
	w = &Watcher{
		Config: cfg, queue: q, mounts: m, stop: make(chan struct{}), read: make(chan struct{}), wake: make(chan struct{}, 1),
		dirs: map[int]string{}, unwatchable: map[string]bool{}, packs: map[string]*watchedPack{}, watches: map[int]map[*watchedPack]struct{}{},
		fences: map[int]chan struct{}{}, changed: map[string]bool{},
	}
	if w.Limit == 0 {
		w.Limit = kernelLimit()
	}
	w.watchDirs(".", pack.OldPlace)
	cfg.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_approval_unwatched_packs",
		Help: "Packs that may run and are looked at in turns because not all of them can be watched.",
	}, func() float64 { return float64(len(w.Unwatched())) }))
	go w.receive()
	return w, nil
}

// kernelLimit is how many watches the kernel lets a user have.
func kernelLimit() int {
	var limit int
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	if err == nil {
		_, err = fmt.Sscan(string(text), &limit)
	}
	if err != nil || limit <= 0 {
		return 8192 // the least that a kernel has by default
	}
	return limit
}

// watchPlaces watches folders that packs lie in. While one can't be watched no pack is Unchanged, and all that may run are Unwatched.
func (w *Watcher) watchDirs(dirs ...string) {
	for _, dir := range dirs {
		err := w.watchDir(dir)
		w.mu.Lock()
		was := w.unwatchable[dir]
		switch {
		case err == nil && was:
			delete(w.unwatchable, dir)
			w.markAllChanged() // nobody knows what happened meanwhile
			w.Log.Info("a folder of packs can be watched again", "folder", dir)
		case err != nil && !was:
			w.unwatchable[dir] = true
			w.markAllChanged()
			w.Log.Warn("cannot watch a folder of packs; those that may run are looked at in turns", "folder", dir, "reason", watchProblem(err), "error", err)
		}
		w.mu.Unlock()
	}
}

// watchPlace watches a folder that packs lie in. One that isn't there is watched when it appears.
func (w *Watcher) watchDir(dir string) error {
	root, err := os.OpenRoot(w.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		if dir != "." {
			return nil // not there, or not a folder: no place
		}
		return err
	}
	defer f.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := w.queue.add(int(f.Fd()), folderMask)
	if err != nil {
		return err
	}
	w.dirs[wd] = dir
	return nil
}

// Close ends a watcher.
func (w *Watcher) Close() error {
	close(w.stop)
	err := w.queue.close()
	<-w.read
	return errors.Join(err, w.mounts.close())
}

// Run calls Changed, one call at a time, with the packs in whose folder something happened, until ctx ends; all means that any may
// have changed.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.read:
			return fmt.Errorf("watch packs: %w", w.readErr)
		case <-w.wake:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(debounce):
		}
		w.mu.Lock()
		ids := make([]string, 0, len(w.changed))
		for id := range w.changed {
			ids = append(ids, id)
		}
		all := w.allChanged
		clear(w.changed)
		w.allChanged = false
		w.mu.Unlock()
		w.OnChange(ids, all)
	}
}

// receive reads the queue until it is closed.
func (w *Watcher) receive() {
	defer close(w.read)
	var events []event
	for {
		var err error
		if events, err = w.queue.read(events[:0]); err != nil {
			w.mu.Lock()
			w.readErr = err
			w.markAllChanged()
			w.mu.Unlock()
			return
		}
		again := false
		w.mu.Lock()
		for _, e := range events {
			again = w.handle(e) || again
		}
		w.mu.Unlock()
		if again {
			w.watchDirs(pack.OldPlace)
		}
	}
}

// take is told what happened; mu is held. It says whether the old place of packs is another folder now.
func (w *Watcher) handle(e event) (replaced bool) {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		w.Log.Warn("lost track of changes; every pack is verified", "error", "the kernel's queue ran over")
		w.markAllChanged()
		return false
	}
	if reached, ok := w.fences[e.wd]; ok && e.mask&unix.IN_IGNORED != 0 {
		delete(w.fences, e.wd)
		close(reached)
		return false
	}
	if dir, ok := w.dirs[e.wd]; ok {
		return w.handleDirEvent(e, dir)
	}
	for p := range w.watches[e.wd] {
		w.markChanged(p)
	}
	if e.mask&unix.IN_IGNORED != 0 { // the kernel has ended it: what it was on is gone
		for p := range w.watches[e.wd] {
			delete(p.watches, e.wd)
		}
		delete(w.watches, e.wd)
	}
	return false
}

// takePlace is take for a folder that packs lie in.
func (w *Watcher) handleDirEvent(e event, dir string) (replaced bool) {
	switch {
	case e.mask&unix.IN_IGNORED != 0:
		delete(w.dirs, e.wd)
		w.markAllChanged()
	case e.name == "": // the folder itself was renamed, or has another mode
		w.markAllChanged()
	case dir == "." && e.name == pack.OldPlace:
		w.markAllChanged()
		return true
	default:
		// Its folder in the new place hides one in the old, so the id counts, not where it is.
		if p, ok := w.packs[e.name]; ok {
			w.markChanged(p)
		}
	}
	return false
}

// dirty says that something happened to a pack.
func (w *Watcher) markChanged(p *watchedPack) {
	p.seq++
	w.changed[p.id] = true
	w.notify()
}

// loseAll says that anything may have happened, and lets go of whoever waits to know what did.
func (w *Watcher) markAllChanged() {
	for _, p := range w.packs {
		p.seq++
	}
	w.allChanged = true
	w.notify()
	for wd, reached := range w.fences {
		delete(w.fences, wd)
		close(reached)
	}
}

func (w *Watcher) notify() {
	select {
	case w.wake <- struct{}{}:
	default: // it is going to be told anyway
	}
}

// Fence returns when everything that happened before the call has been taken account of by Unchanged.
func (w *Watcher) Fence(ctx context.Context) error {
	reached := make(chan struct{})
	if err := w.checkMounts(func() error {
		return w.queue.fence(func(wd int) { w.fences[wd] = reached })
	}); err != nil {
		return fmt.Errorf("catch up with changes: %w", err)
	}
	select {
	case <-reached:
		return nil
	case <-w.read:
		return fmt.Errorf("catch up with changes: %w", fs.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("catch up with changes: %w", ctx.Err())
	}
}

// LookAtMounts takes account of what was mounted in the ecosystem folder, of which there are no events. It tries again to watch the
// folders of packs that could not be watched.
func (w *Watcher) CheckMounts() error {
	w.mu.Lock()
	unwatchable := slices.Collect(maps.Keys(w.unwatchable))
	w.mu.Unlock()
	w.watchDirs(unwatchable...)
	return w.checkMounts(func() error { return nil })
}

func (w *Watcher) checkMounts(then func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed, err := w.mounts.changed()
	if changed || err != nil {
		w.markAllChanged()
	}
	return errors.Join(err, then())
}

// Unchanged says whether it is certain that nothing happened to a pack since the beginning of the last look at it that
// was ended by Done. It speaks of the time of the last Fence.
func (w *Watcher) Unchanged(packID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.packs[packID]
	return ok && w.readErr == nil && len(w.unwatchable) == 0 && p.cleanSeq != 0 && p.cleanSeq == p.seq
}

// Unwatched are the packs that may run and have something in them, or above them, that can't be watched.
func (w *Watcher) Unwatched() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id, p := range w.packs {
		if p.executable && (!p.complete || len(w.unwatchable) > 0) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Forget stops watching a pack.
func (w *Watcher) Forget(packID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.packs[packID]; ok {
		w.release(p, nil)
		delete(w.packs, packID)
	}
}

// release ends the watches of a pack that keep doesn't have; mu is held.
func (w *Watcher) release(p *watchedPack, keep map[int]struct{}) {
	for wd := range p.watches {
		if _, ok := keep[wd]; ok {
			continue
		}
		delete(p.watches, wd)
		delete(w.watches[wd], p)
		if len(w.watches[wd]) == 0 {
			delete(w.watches, wd)
			w.queue.remove(wd)
		}
	}
}
