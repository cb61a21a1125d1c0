package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/rumi-ai/rumi/libs/bundle"
	"github.com/rumi-ai/rumi/libs/flock"
)

// Collect removes three things: every manifest that is in neither list that named returns, every blob that no tree in current
// needs, and what killed processes were writing. It returns the number of manifests and blobs that were removed. named is
// called with the store locked, so that no approval is under way: a digest that it doesn't return is not going to be needed.
//
// If the manifest of a tree in current is missing or can't be read, the error is an *UnreadError, and no manifest or blob is
// removed: it isn't known which blobs that tree needs, and it is whole again once the operator has put the manifest back. Any
// other file that can't be read or removed stays, and doesn't stop the rest.
func (s *Store) Collect(named func() (historic, current []string, err error)) (removed int, err error) {
	lockFile, err := s.lock(flock.WaitOpen, flock.Exclusive)
	if err != nil {
		return 0, fmt.Errorf("collect blobs: %w", err)
	}
	defer lockFile.Close()
	unswept := s.removeIncoming()
	historic, current, err := named()
	if err != nil {
		return 0, errors.Join(err, unswept)
	}
	needed := map[string]bool{}
	var unread UnreadError
	for _, digest := range current {
		m, err := s.Manifest(digest)
		if err != nil {
			unread.Digests = append(unread.Digests, digest)
			unread.Errs = append(unread.Errs, err)
			continue
		}
		for _, e := range m.Entries {
			needed[e.SHA256] = true
		}
	}
	if len(unread.Digests) > 0 {
		return 0, errors.Join(fmt.Errorf("collect blobs: %w", &unread), unswept)
	}
	keepManifests := map[string]bool{}
	for _, digest := range append(historic, current...) {
		keepManifests[strings.TrimPrefix(digest, "sha256:")+".json"] = true
	}
	err = errors.Join(
		unswept,
		s.sweep(manifests, keepManifests, &removed),
		s.sweep(blobs, needed, &removed),
		s.collectBundles(needed, &removed),
	)
	if err != nil {
		return removed, fmt.Errorf("collect blobs: %w", err)
	}
	return removed, nil
}

// UnreadError is the error of Collect where manifests of current trees can't be read.
type UnreadError struct {
	Digests []string // of the trees, in the order of named's answer
	Errs    []error  // why each manifest can't be read, in the same order
}

// Error implements error.
func (e *UnreadError) Error() string {
	return fmt.Sprintf("nothing is removed while the manifests of %d trees can't be read: %v", len(e.Digests), errors.Join(e.Errs...))
}

// Unwrap returns the errors of all manifests.
func (e *UnreadError) Unwrap() []error { return e.Errs }

// sweep removes the files under a folder whose names are not in keep, and adds their number to removed. A file that can't be
// removed doesn't stop the rest.
func (s *Store) sweep(folder string, keep map[string]bool, removed *int) error {
	var problems []error
	_ = fs.WalkDir(s.root.FS(), folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			problems = append(problems, err)
			return nil
		}
		if entry.IsDir() || keep[entry.Name()] {
			return nil
		}
		if err := s.root.Remove(path); err != nil {
			problems = append(problems, err)
			return nil
		}
		*removed++
		if name, err := parseSum(entry.Name()); err == nil {
			s.mu.Lock()
			delete(s.unsynced, name)
			s.mu.Unlock()
		}
		return nil
	})
	return errors.Join(problems...)
}

// collectBundles removes the bundles in which nothing is needed, and rewrites those in which something isn't, or that hold a
// blob which another bundle has as well.
func (s *Store) collectBundles(needed map[string]bool, removed *int) error {
	_ = s.load(true) // an error comes again from the call at the end
	names, err := s.entries(bundles)
	if err != nil {
		return err
	}
	var problems []error
	seen := map[sum]bool{} // blobs that an earlier bundle keeps
	for _, file := range names {
		entries, err := s.readIndex(file)
		if err != nil && !errors.Is(err, bundle.ErrTorn) {
			continue // load reports the error
		}
		live := map[sum]location{}
		for name, p := range entries {
			if needed[name.String()] && !seen[name] {
				live[name] = p
				seen[name] = true
			}
		}
		if len(live) == len(entries) && len(entries) > 0 {
			continue
		}
		if err := s.shrink(file, live); err != nil {
			for name := range live { // this bundle may be damaged: let a later one that has these blobs, too, keep them
				delete(seen, name)
			}
			problems = append(problems, fmt.Errorf("bundle %s: %w", file, err))
			continue
		}
		*removed += len(entries) - len(live)
	}
	return errors.Join(append(problems, s.load(true))...)
}

// shrink replaces a bundle by one with only the live blobs of it; if there are none it removes it. The new bundle is on the
// disk before the old one is removed.
func (s *Store) shrink(name string, live map[sum]location) error {
	if len(live) > 0 {
		b, err := s.copyLive(name, live)
		if err != nil {
			return err
		}
		if _, err := b.name(); err != nil {
			b.discard()
			return err
		}
		if err := s.sync(bundles); err != nil {
			return err
		}
	}
	return s.root.Remove(bundles + "/" + name)
}

// copyLive writes a bundle, synced but without a name, with some of the blobs of another. A content that doesn't match its
// SHA-256 is an error: then the old bundle stays, for the operator to repair.
func (s *Store) copyLive(name string, live map[sum]location) (b *bundleWriter, err error) {
	f, err := s.root.Open(bundles + "/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if b, err = s.newBundle(); err != nil {
		return nil, err
	}
	for want, p := range live {
		content, err := io.ReadAll(io.NewSectionReader(f, p.offset, p.size))
		if err == nil && sha256.Sum256(content) != want {
			err = fmt.Errorf("its blob %s is damaged", want)
		}
		if err == nil {
			err = b.add(want, content)
		}
		if err != nil {
			b.discard()
			return nil, err
		}
	}
	if err := b.sync(); err != nil {
		b.discard()
		return nil, err
	}
	return b, nil
}
