package ecosystem

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

// Bounds of Select.
const (
	maxPatterns = 32
	maxDepth    = 16   // components of a pattern
	maxListed   = 5000 // names of a folder that a pattern is compared with
	maxMatches  = 1000 // files of one pack
)

// Select reads the files of every installed pack that match one of the patterns (path.Match, relative to the pack's folder). It
// follows no link. A bad pattern is a fault: 400.
func (e *Ecosystem) Select(ctx context.Context, patterns []string) ([]api.Pack, error) {
	split, err := splitPatterns(patterns)
	if err != nil {
		return nil, err
	}
	all, unread := e.packs.Installed(e.root)
	for _, u := range unread {
		e.log.WarnContext(ctx, "could not list a folder of packs", "folder", path.Join("ecosystem", u.Path), "error", u.Err)
	}
	packs := make([]api.Pack, 0, len(all))
	left := int64(api.MaxTotal)
	for _, found := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		one := api.Pack{PackID: string(found.ID), Base: found.Descriptor.Base, Files: []api.File{}}
		if found.Err != nil {
			one.Error = e.operatorMessage(found.Dir, found.Err)
		} else if err := e.selectFrom(found, split, &one, &left); err != nil {
			one.Error = e.operatorMessage(found.Dir, err)
		}
		packs = append(packs, one)
	}
	return packs, nil
}

func splitPatterns(patterns []string) ([][]string, error) {
	if len(patterns) == 0 || len(patterns) > maxPatterns {
		return nil, fault.Invalid("Invalid value for field 'patterns': want 1 to %d", maxPatterns).With("invalid_field")
	}
	var split [][]string
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p != path.Clean(p) || !fs.ValidPath(p) || strings.Count(p, "/") >= maxDepth {
			return nil, fault.Invalid("Invalid value for field 'patterns': %q", p).With("invalid_field")
		}
		split = append(split, strings.Split(p, "/"))
	}
	return split, nil
}

// selectFrom adds the matching files of one pack. left is the number of bytes that may still be read of all packs.
func (e *Ecosystem) selectFrom(found pack.Found, patterns [][]string, into *api.Pack, left *int64) error {
	root, err := e.root.OpenRoot(found.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	matched := matches{root: root, unread: map[string]error{}}
	for _, pattern := range patterns {
		if err := matched.match(".", pattern); err != nil {
			return err
		}
	}
	slices.Sort(matched.paths)
	for _, p := range slices.Compact(matched.paths) {
		if err := matched.unread[p]; err != nil {
			into.Files = append(into.Files, api.File{Path: p, Error: fmt.Sprintf("can't be read: %v", err)})
			continue
		}
		into.Files = append(into.Files, read(root, p, left))
	}
	return nil
}

// matches are the paths in a pack that match a pattern: files, and entries that can't be read and might match or hold a match.
type matches struct {
	root   *os.Root
	paths  []string
	unread map[string]error
}

func (m *matches) add(p string) error {
	if m.paths = append(m.paths, p); len(m.paths) > maxMatches {
		return fmt.Errorf("more than %d files match", maxMatches)
	}
	return nil
}

// match adds the paths below dir that match the components of a pattern and are no folders. An error concerns the whole pack; a
// single entry that can't be read is added as a match with its error.
func (m *matches) match(dir string, pattern []string) error {
	names, err := candidates(m.root, dir, pattern[0])
	if _, unread := errors.AsType[*fs.PathError](err); unread && dir != "." {
		m.unread[dir] = err
		return m.add(dir)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		p := path.Join(dir, name)
		info, err := m.root.Lstat(p)
		switch last := len(pattern) == 1; {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			m.unread[p] = err
			err = m.add(p)
		case last && !info.IsDir():
			err = m.add(p)
		case !last && info.IsDir():
			err = m.match(p, pattern[1:])
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// candidates lists the names in a folder that match one component of a pattern.
func candidates(root *os.Root, dir, component string) ([]string, error) {
	if !strings.ContainsAny(component, `*?[\`) {
		return []string{component}, nil
	}
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(maxListed + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(all) > maxListed {
		return nil, fmt.Errorf("%s has more than %d names", dir, maxListed)
	}
	return slices.DeleteFunc(all, func(name string) bool {
		fits, _ := path.Match(component, name) // the pattern was checked
		return !fits
	}), nil
}

// read reads one file; if that fails its Error says why.
func read(root *os.Root, name string, left *int64) api.File {
	file := api.File{Path: name}
	failedEntry := func(format string, args ...any) api.File {
		file.Error = fmt.Sprintf(format, args...)
		return file
	}
	before, err := root.Lstat(name)
	if err != nil {
		return failedEntry("can't be read: %v", err)
	}
	if !before.Mode().IsRegular() {
		return failedEntry("not a regular file")
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return failedEntry("can't be read: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !os.SameFile(before, info) {
		return failedEntry("being replaced")
	}
	file.Size = info.Size()
	limit := min(int64(api.MaxFile), *left)
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return failedEntry("can't be read: %v", err)
	case int64(len(content)) > api.MaxFile:
		return failedEntry("larger than %d bytes", api.MaxFile)
	case int64(len(content)) > limit:
		return failedEntry("all files together are larger than %d bytes", api.MaxTotal)
	}
	*left -= int64(len(content))
	sum := sha256.Sum256(content)
	file.Size, file.SHA256, file.Content = int64(len(content)), hex.EncodeToString(sum[:]), content
	return file
}
