// Package replica tells the processes of this service apart that run on one host and share its folders: who is alive, and
// on which host that is.
package replica

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/flock"
)

const suffix = ".alive"

var validID = regexp.MustCompile(`\A[a-z2-7]{26}\z`)

// Replica is this process among the others. While it lives it has the lock of a file that is named for it.
type Replica struct {
	ID   string
	dir  string
	lock *flock.File
}

// Join makes this process one of those that share dir, which is made. Close ends that, as does the end of the process.
func Join(dir string) (*Replica, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("join replicas: %w", err)
	}
	for {
		r := &Replica{ID: strings.ToLower(rand.Text()), dir: dir}
		r.lock = flock.New(r.path(r.ID))
		err := r.lock.Try()
		if err == nil {
			return r, nil
		}
		r.lock.Close()
		// Nobody else has the name: who looks for the dead has found the file before its lock was taken, and removes it.
		if !errors.Is(err, flock.ErrLocked) {
			return nil, fmt.Errorf("join replicas: %w", err)
		}
	}
}

func (r *Replica) path(id string) string { return filepath.Join(r.dir, id+suffix) }

// Close says that this process is no replica any more.
func (r *Replica) Close() { r.lock.Remove() }

// Alive says whether the replica of that id lives. Of an id that none can have it doesn't.
func (r *Replica) Alive(id string) bool {
	if id == r.ID {
		return true
	}
	if !validID.MatchString(id) {
		return false
	}
	if _, err := os.Lstat(r.path(id)); err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	lock := flock.New(r.path(id))
	defer lock.Close()
	if err := lock.Try(); err != nil {
		return true // or can't be known, which is no reason to take away what it has
	}
	return false
}

// RemoveDead removes the files of the replicas that have died since the last call, and returns their number.
func (r *Replica) RemoveDead() (dead int, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return 0, fmt.Errorf("look for dead replicas: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || id == r.ID || !validID.MatchString(id) {
			continue
		}
		if lock := flock.New(r.path(id)); lock.Try() == nil {
			lock.Remove()
			dead++
		} else {
			lock.Close()
		}
	}
	return dead, nil
}

// Node is the name that this host goes by among those that share a database: a random one, kept in dir.
func Node(dir string) (string, error) {
	path := filepath.Join(dir, "node")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("name this host: %w", err)
	}
	for {
		text, err := os.ReadFile(path)
		if err == nil {
			if !validID.Match(text) {
				return "", fmt.Errorf("name this host: %s holds no name; remove it", path)
			}
			return string(text), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("name this host: %w", err)
		}
		if err := atomicfile.WritePath(path, []byte(strings.ToLower(rand.Text())), 0o640, atomicfile.NoReplace()); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("name this host: %w", err)
		}
	}
}
