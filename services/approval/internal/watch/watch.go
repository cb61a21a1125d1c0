// Package watch says which packs may have changed, as soon as the kernel says so.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long events are collected before they are told: one copy of a folder makes thousands.
const settle = 20 * time.Millisecond

// Watcher watches the folders of packs with inotify. Where the kernel's limits don't allow that for a pack, the pack is
// left to whoever looks at intervals, and the log says so. Use New.
type Watcher struct {
	root    string // the ecosystem folder
	log     *slog.Logger
	events  *fsnotify.Watcher
	changed func(packIDs []string, all bool)

	mu      sync.Mutex
	packs   map[string]string // folder relative to root → pack id
	limited bool              // the kernel's limit was met and said
}

// New makes a watcher of packs under root. changed is called, one call at a time, with the packs under whose folder
// something happened; all means that the kernel lost count.
func New(root string, log *slog.Logger, changed func(packIDs []string, all bool)) (*Watcher, error) {
	events, err := fsnotify.NewBufferedWatcher(4096)
	if err != nil {
		return nil, fmt.Errorf("watch packs: %w", err)
	}
	w := &Watcher{root: root, log: log, events: events, changed: changed, packs: map[string]string{}}
	// The folders that packs appear in and vanish from; the old place may not exist.
	if err := events.Add(root); err != nil {
		return nil, errors.Join(fmt.Errorf("watch packs: %w", err), events.Close())
	}
	if err := events.Add(filepath.Join(root, "packs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("watch packs: %w", err), events.Close())
	}
	return w, nil
}

// Follow watches a pack's folder (relative to the root) and every folder in it, from now on; those that appear in it
// later, or in its place, are watched as they appear. For a pack that is followed already it does nothing.
func (w *Watcher) Follow(packID, dir string) {
	w.mu.Lock()
	known := w.packs[dir] == packID
	w.packs[dir] = packID
	w.mu.Unlock()
	if !known {
		w.add(filepath.Join(w.root, dir))
	}
}

// Unfollow stops watching a pack's folder.
func (w *Watcher) Unfollow(packID string) {
	w.mu.Lock()
	var dirs []string
	for dir, id := range w.packs {
		if id == packID {
			dirs = append(dirs, filepath.Join(w.root, dir))
			delete(w.packs, dir)
		}
	}
	w.mu.Unlock()
	for _, dir := range dirs {
		for _, watched := range w.events.WatchList() {
			if watched == dir || strings.HasPrefix(watched, dir+"/") {
				_ = w.events.Remove(watched) // gone already, when the folder is
			}
		}
	}
}

// Close ends a watcher that Run was never called for.
func (w *Watcher) Close() error { return w.events.Close() }

// add watches a folder and what is in it. What vanishes meanwhile makes an event of its own.
func (w *Watcher) add(dir string) {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // an unreadable folder is found by verification, which follows every event
		}
		if err := w.events.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err == nil {
		return
	}
	w.mu.Lock()
	said := w.limited
	w.limited = true
	w.mu.Unlock()
	if said {
		return
	}
	reason := "error"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) {
		reason = "the kernel's limit is met: raise fs.inotify.max_user_watches"
	}
	w.log.Warn("cannot watch every folder; changes there are noticed at intervals only", "folder", dir, "reason", reason, "error", err)
}

// Run tells changes until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.events.Close()
	touched := map[string]bool{}
	all := false
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-w.events.Events:
			if !ok {
				return errors.New("watch packs: the kernel's queue was closed")
			}
			id := w.owner(event.Name)
			if id == "" {
				continue
			}
			if event.Has(fsnotify.Create) {
				if info, err := os.Lstat(event.Name); err == nil && info.IsDir() {
					w.add(event.Name)
				}
			}
			touched[id] = true
		case err, ok := <-w.events.Errors:
			if !ok {
				return errors.New("watch packs: the kernel's queue was closed")
			}
			w.log.Warn("lost track of changes; every pack is verified", "error", err)
			all = true
		case <-due:
			ids := make([]string, 0, len(touched))
			for id := range touched {
				ids = append(ids, id)
			}
			w.changed(ids, all)
			clear(touched)
			all, due = false, nil
			continue
		}
		if due == nil {
			due = time.After(settle)
		}
	}
}

// owner is the pack under whose folder a path is, "" for none that is followed.
func (w *Watcher) owner(path string) string {
	relative, err := filepath.Rel(w.root, path)
	if err != nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := relative; dir != "." && dir != "/" && dir != ".."; dir = filepath.Dir(dir) {
		if id, ok := w.packs[dir]; ok {
			return id
		}
	}
	return ""
}
