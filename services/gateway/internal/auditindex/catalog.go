package auditindex

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// catalog is which segments the folder has.
type catalog struct {
	root *os.Root
	log  *slog.Logger

	mu     sync.Mutex
	byName map[string]*Segment
	bad    map[string]time.Time // files that can't be used, with their mtime: the writer makes a new one under the name
	byID   map[auditfile.ID][]*Segment
}

func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, errors.Join(damaged("it is no regular file"), err)
	}
	return f, nil
}

// refresh takes over what has come and what is gone. Files keep their content as long as they keep their name, so those that are known aren't read again.
func (c *catalog) refresh() error {
	entries, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("list audit index: %w", err)
	}
	byName, bad := map[string]*Segment{}, map[string]time.Time{}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), extension) {
			c.take(e, byName, bad)
		}
	}
	byID := map[auditfile.ID][]*Segment{}
	for _, s := range byName {
		byID[s.id()] = append(byID[s.id()], s)
	}
	for id, list := range byID {
		byID[id] = cover(list)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byName, c.bad, c.byID = byName, bad, byID
	return nil
}

// take adds a file of the folder to those that can be used, or to the others.
func (c *catalog) take(e fs.DirEntry, byName map[string]*Segment, bad map[string]time.Time) {
	c.mu.Lock()
	known, since := c.byName[e.Name()], c.bad[e.Name()]
	c.mu.Unlock()
	if known != nil {
		byName[e.Name()] = known
		return
	}
	info, err := e.Info()
	if err == nil && info.ModTime().Equal(since) {
		bad[e.Name()] = since
		return
	}
	s, err := openSegment(c.root, e.Name())
	switch {
	case err == nil:
		byName[e.Name()] = s
	case errors.Is(err, fs.ErrNotExist): // replaced meanwhile by a larger one
	default:
		c.log.Warn("a segment of the audit index can't be used; its range is read from the log until it is made anew", "segment", e.Name(), "error", err)
		if info != nil {
			bad[e.Name()] = info.ModTime()
		}
	}
}

// cover takes of segments those that don't overlap, the largest where they do, in the order of their ranges.
func cover(list []*Segment) (kept []*Segment) {
	slices.SortFunc(list, func(a, b *Segment) int {
		return cmp.Or(cmp.Compare(a.From(), b.From()), cmp.Compare(b.To(), a.To()))
	})
	end := int64(0)
	for _, s := range list {
		if s.From() >= end {
			kept, end = append(kept, s), s.To()
		}
	}
	return kept
}

// of are the segments of a category and day, in the order of their ranges.
func (c *catalog) of(id auditfile.ID) []*Segment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byID[id]
}

// drop forgets a segment that was found to be damaged or not to fit. Its file stays until the writer removes it.
func (c *catalog) drop(s *Segment, why string) {
	info, err := c.root.Lstat(s.name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[s.name] != s {
		return
	}
	c.log.Warn("a segment of the audit index is not used any more, and made anew", "segment", s.name, "reason", why)
	if err == nil {
		c.bad[s.name] = info.ModTime()
	}
	delete(c.byName, s.name)
	c.byID[s.id()] = slices.DeleteFunc(slices.Clone(c.byID[s.id()]), func(other *Segment) bool { return other == s })
}

// unused are the names of the files that nobody needs: those that can't be used, those whose range a larger one has, and those of files that the log
// doesn't have any more.
func (c *catalog) unused(stored map[auditfile.ID]bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := slices.Collect(maps.Keys(c.bad))
	for name, s := range c.byName {
		if !stored[s.id()] || !slices.Contains(c.byID[s.id()], s) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// all are the segments in use, the newest days first.
func (c *catalog) all() (list []*Segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.byID {
		list = append(list, of...)
	}
	slices.SortFunc(list, func(a, b *Segment) int {
		return cmp.Or(-cmp.Compare(a.Day, b.Day), cmp.Compare(a.Category, b.Category), cmp.Compare(a.From(), b.From()))
	})
	return list
}
