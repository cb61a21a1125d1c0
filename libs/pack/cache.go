package pack

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settled is how long ago a descriptor must have changed for its times to tell its next change: clocks of file systems
// tick, at 100 Hz in the worst case.
const mtimeGranularity = 50 * time.Millisecond

// Cache finds packs as Installed and Find do, without reading a descriptor again that has not changed. Its zero value is
// ready for use, with one ecosystem folder. It is safe for concurrent use.
type Cache struct {
	mu     sync.Mutex
	cached map[string]cachedPack // by folder, relative to the ecosystem folder
}

type cachedPack struct {
	found  Found
	stamps stamps
}

// stamps are of a pack's folder, of backend/ where its descriptor lies there, and of the descriptor. A name that comes or
// goes changes the folder that it is in.
type stamps [3]stamp

type stamp struct {
	device, inode, links uint64
	size                 int64
	mode, uid, gid       uint32
	modified, changed    unix.Timespec
}

// Installed is like the function Installed, but reads a descriptor again only where the pack's folder or the descriptor has changed.
func (c *Cache) Installed(ecosystem *os.Root) ([]Found, []UnreadableDir) {
	dir, err := ecosystem.Open(".")
	if err != nil {
		return nil, []UnreadableDir{{".", err}}
	}
	defer dir.Close()
	return installed(ecosystem, func(parent string, id ID) (Found, error) { return c.readPack(ecosystem, dir, parent, id) })
}

// Find is like the function Find, but reads a descriptor again only where the pack's folder or the descriptor has changed.
func (c *Cache) Find(ecosystem *os.Root, id ID) (Found, error) {
	dir, err := ecosystem.Open(".")
	if err != nil {
		return Found{}, fmt.Errorf("find pack %s: %w: the ecosystem folder %w: %w", id, fs.ErrNotExist, ErrUnreadable, err)
	}
	defer dir.Close()
	return find(ecosystem, id, func(parent string, id ID) (Found, error) { return c.readPack(ecosystem, dir, parent, id) })
}

func (c *Cache) readPack(ecosystem *os.Root, dir *os.File, parent string, id ID) (Found, error) {
	name := path.Join(parent, string(id))
	c.mu.Lock()
	last, ok := c.cached[name]
	c.mu.Unlock()
	// These follow a link that has taken a folder's place, but then they don't find the inodes that were read before.
	if ok && last.stamps == stampsOf(dir, name, last.found.Descriptor.Base) {
		return last.found, nil
	}
	read := time.Now()
	// Before it is read, so that a change meanwhile is seen the next time.
	before := map[string]stamps{}
	for _, base := range []string{"", "backend"} {
		before[base] = stampsOf(dir, name, base)
	}
	found, err := readPack(ecosystem, parent, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := before[found.Descriptor.Base]
	if err != nil || found.Err != nil || !now.stableAt(read) {
		delete(c.cached, name)
		return found, err
	}
	if c.cached == nil {
		c.cached = map[string]cachedPack{}
	}
	found.Warnings = slices.Clip(found.Warnings) // who adds one makes a copy
	c.cached[name] = cachedPack{found, now}
	return found, nil
}

func stampsOf(dir *os.File, name, base string) (s stamps) {
	s[0] = stampOf(dir, name)
	if base != "" {
		s[1] = stampOf(dir, path.Join(name, base))
	}
	s[2] = stampOf(dir, path.Join(name, base, File))
	return s
}

// stampOf is the zero stamp of what can't be looked at.
func stampOf(dir *os.File, name string) stamp {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return stamp{}
	}
	return stamp{uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Size, st.Mode, st.Uid, st.Gid, st.Mtim, st.Ctim}
}

// settledAt says whether everything was there and had changed long enough before.
func (s stamps) stableAt(now time.Time) bool {
	for i, one := range s {
		if one == (stamp{}) && i != 1 || time.Unix(one.changed.Unix()).After(now.Add(-mtimeGranularity)) {
			return false
		}
	}
	return true
}
