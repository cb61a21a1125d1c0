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

// mtimeGranularity is how long ago a file must have changed for its next change to get another time: file systems take times
// from a clock that ticks at 100 Hz in the worst case. A file that changed more recently is not cached.
const mtimeGranularity = 50 * time.Millisecond

// Cache finds packs as Installed and Find do, but reads a descriptor again only if it has changed. Its zero value is ready for
// use, with one ecosystem folder. It is safe for concurrent use.
type Cache struct {
	mu     sync.Mutex
	cached map[string]cachedPack // by folder, relative to the ecosystem folder
}

// cachedPack is a pack with the fingerprints that its files had before it was read.
type cachedPack struct {
	found        Found
	fingerprints fingerprints
}

// fingerprints are the fingerprints of three things: the pack's folder, its folder backend if the descriptor lies there, and the
// descriptor. A name that is added or removed changes the fingerprint of its folder.
type fingerprints [3]fingerprint

type fingerprint struct {
	device, inode, links uint64
	size                 int64
	mode, uid, gid       uint32
	modified, changed    unix.Timespec
}

// Installed is like the package function Installed, but reads a descriptor again only if the pack's folder or the descriptor
// has changed since the last call.
func (c *Cache) Installed(ecosystem *os.Root) ([]Found, []UnreadableDir) {
	dir, err := ecosystem.Open(".")
	if err != nil {
		return nil, []UnreadableDir{{".", err}}
	}
	defer dir.Close()
	return installed(ecosystem, func(parent string, id ID) (Found, error) { return c.readPack(ecosystem, dir, parent, id) })
}

// Find is like the package function Find, but reads a descriptor again only if the pack's folder or the descriptor has changed
// since the last call.
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
	// fingerprintsOf follows a link that was put in a folder's place, but finds other inodes behind it, so that the pack is read again.
	if ok && last.fingerprints == fingerprintsOf(dir, name, last.found.Descriptor.Base) {
		return last.found, nil
	}
	read := time.Now()
	// The fingerprints are taken before the reading: a change during it leaves older fingerprints in the cache, so that the next call reads again.
	before := map[string]fingerprints{}
	for _, base := range []string{"", "backend"} {
		before[base] = fingerprintsOf(dir, name, base)
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
	found.Warnings = slices.Clip(found.Warnings) // a caller that appends gets a copy, not the cache's array
	c.cached[name] = cachedPack{found, now}
	return found, nil
}

func fingerprintsOf(dir *os.File, name, base string) (s fingerprints) {
	s[0] = fingerprintOf(dir, name)
	if base != "" {
		s[1] = fingerprintOf(dir, path.Join(name, base))
	}
	s[2] = fingerprintOf(dir, path.Join(name, base, File))
	return s
}

// fingerprintOf is the fingerprint of a file or folder; the zero value where lstat fails.
func fingerprintOf(dir *os.File, name string) fingerprint {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fingerprint{}
	}
	return fingerprint{uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Size, st.Mode, st.Uid, st.Gid, st.Mtim, st.Ctim}
}

// stableAt says whether everything existed and had last changed more than mtimeGranularity before now.
func (s fingerprints) stableAt(now time.Time) bool {
	for i, one := range s {
		if one == (fingerprint{}) && i != 1 || time.Unix(one.changed.Unix()).After(now.Add(-mtimeGranularity)) {
			return false
		}
	}
	return true
}
