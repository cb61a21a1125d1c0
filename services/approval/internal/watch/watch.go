// Package watch reports which packs may have changed, as soon as inotify reports it, and of which packs it is certain that
// nothing changed. It knows nothing of approvals: internal/approval scans packs through it, and is called back when events
// arrive.
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

// debounce is how long events are collected before OnChange is called: copying one folder makes thousands of events.
const debounce = 20 * time.Millisecond

// Config says what a Watcher watches, and what it calls.
type Config struct {
	Root     string // the ecosystem folder
	Limit    int    // inotify watches at most; 0 for what the kernel allows
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	OnChange func(packIDs []string, all bool) // see Run
}

// Watcher watches the folders of packs with inotify. A pack is watched from a scan of it on (BeginScan). If everything in it
// could be watched and no event came since, Unchanged says so and the pack needn't be scanned again.
//
// Packs that aren't watched have to be scanned again and again. Now and then everything has to be, since some changes raise no
// event:
//
//   - a write through a shared mapping of a file, until that mapping ends (IN_CLOSE_WRITE);
//   - a write through a name outside of the ecosystem folder that a file was given after the scan. A file that already has
//     several names gets a watch of its own, which hears of writes through any of them;
//   - a write through an overlay whose upper layer the folder is.
//
// All of these set the times of the file, which a scan reads: RUMI_VERIFY_INTERVAL bounds how long they go unnoticed. Only
// writes through a mapping to a page that is dirty already set no time; they are noticed when the mapping ends. None of these
// changes affects what runs, which is a copy of the approved bytes (docs/design.md, decision 1).
//
// Make one with New.
type Watcher struct {
	Config
	queue  *queue
	mounts *mounts
	stop   chan struct{} // closed by Close
	read   chan struct{} // closed when receive has ended
	wake   chan struct{} // holds a token while changed or allChanged has something for Run

	mu          sync.Mutex
	dirs        map[int]string  // by watch descriptor: the folders that packs lie in, relative to the root
	unwatchable map[string]bool // the folders of packs that can't be watched: packs may come and go there without an event
	packs       map[string]*watchedPack
	watches     map[int]map[*watchedPack]struct{} // by watch descriptor: the packs that it concerns; two packs can share a file by a hard link
	fences      map[int]chan struct{}             // by watch descriptor of a mark in the queue: closed when the mark is read; see Fence
	changed     map[string]bool                   // ids of the packs that Run has to report
	allChanged  bool                              // Run has to report all packs
	limitLogged bool                              // the log has said that not every pack can be watched
	readErr     error                             // why receive has ended
}

// watchedPack is what is known of a pack. It is clean while cleanSeq equals seq.
type watchedPack struct {
	id         string
	executable bool             // it may run, and so has precedence when watches are scarce
	seq        uint64           // grows with every event; from 1
	cleanSeq   uint64           // seq at the beginning of the last complete scan; 0 for none
	complete   bool             // the last scan could watch everything
	watches    map[int]struct{} // its watch descriptors
	scans      int              // scans under way
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
	w.watchDirs(".", pack.LegacyDir)
	cfg.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_approval_unwatched_packs",
		Help: "Packs that may run and are scanned periodically because they can't be watched.",
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

// watchDirs watches folders that packs lie in. While one of them can't be watched, no pack is Unchanged and all packs that may
// run are Unwatched.
func (w *Watcher) watchDirs(dirs ...string) {
	for _, dir := range dirs {
		err := w.watchDir(dir)
		w.mu.Lock()
		was := w.unwatchable[dir]
		switch {
		case err == nil && was:
			delete(w.unwatchable, dir)
			w.markAllChanged() // it isn't known what happened while it wasn't watched
			w.Log.Info("a folder of packs can be watched again", "folder", dir)
		case err != nil && !was:
			w.unwatchable[dir] = true
			w.markAllChanged()
			w.Log.Warn("cannot watch a folder of packs; packs that may run are scanned periodically", "folder", dir, "reason", watchProblem(err), "error", err)
		}
		w.mu.Unlock()
	}
}

// watchDir watches one folder that packs lie in. A folder that doesn't exist is no error: it is watched when it appears.
func (w *Watcher) watchDir(dir string) error {
	root, err := os.OpenRoot(w.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		if dir != "." {
			return nil // not there, or not a folder: no packs can lie in it
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

// Close ends the watcher, and a Run or Fence that is under way.
func (w *Watcher) Close() error {
	close(w.stop)
	err := w.queue.close()
	<-w.read
	return errors.Join(err, w.mounts.close())
}

// Run calls OnChange with the ids of the packs in whose folders something happened, one call at a time, until ctx ends. all
// means that any pack may have changed.
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

// receive reads events until the queue is closed. It runs in a goroutine of its own.
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
			w.watchDirs(pack.LegacyDir)
		}
	}
}

// handle takes account of one event; mu is held. It says whether the legacy folder of packs is another folder now, and has to
// be watched anew.
func (w *Watcher) handle(e event) (replaced bool) {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		w.Log.Warn("the kernel dropped file events; verifying every pack")
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
	if e.mask&unix.IN_IGNORED != 0 { // the kernel has ended the watch: its file or folder was removed or unmounted
		for p := range w.watches[e.wd] {
			delete(p.watches, e.wd)
		}
		delete(w.watches, e.wd)
	}
	return false
}

// handleDirEvent is handle for an event of a folder that packs lie in.
func (w *Watcher) handleDirEvent(e event, dir string) (replaced bool) {
	switch {
	case e.mask&unix.IN_IGNORED != 0:
		delete(w.dirs, e.wd)
		w.markAllChanged()
	case e.name == "": // the folder itself was renamed, or has another mode
		w.markAllChanged()
	case dir == "." && e.name == pack.LegacyDir:
		w.markAllChanged()
		return true
	default:
		// A folder "demo" in either folder of packs concerns the pack demo: one in the ecosystem folder hides one in the legacy folder.
		if p, ok := w.packs[e.name]; ok {
			w.markChanged(p)
		}
	}
	return false
}

// markChanged notes that something happened to a pack; mu is held.
func (w *Watcher) markChanged(p *watchedPack) {
	p.seq++
	w.changed[p.id] = true
	w.notify()
}

// markAllChanged notes that anything may have happened; mu is held. It also lets go of the callers of Fence: the marks that
// they wait for may be lost, and what they would learn from them doesn't count any more.
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

// notify wakes Run.
func (w *Watcher) notify() {
	select {
	case w.wake <- struct{}{}:
	default: // Run is awake already, and will find this too
	}
}

// Fence returns when every event that happened before the call is taken account of by Unchanged. It puts a mark at the end of
// the kernel's queue and waits until receive has read it.
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

// CheckMounts takes account of file systems that were mounted or unmounted in the ecosystem folder, which raises no events. It
// also tries again to watch the folders of packs that could not be watched.
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

// Unchanged says whether it is certain that nothing happened to a pack since the beginning of the last scan that ended with
// Done. The answer is as of the last Fence.
func (w *Watcher) Unchanged(packID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.packs[packID]
	return ok && w.readErr == nil && len(w.unwatchable) == 0 && p.cleanSeq != 0 && p.cleanSeq == p.seq
}

// Unwatched lists the packs that may run and of which something, or a folder above, can't be watched.
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

// release ends the watches of a pack, except those in keep; mu is held.
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
