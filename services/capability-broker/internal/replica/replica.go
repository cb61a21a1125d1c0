// Package replica knows the processes of this service that run on one host and share its folders.
//
// Each replica holds the flock(2) of a file that is named for it, until its process ends: the kernel releases the lock however the process
// ends. So a file whose lock can be taken belongs to a replica that has died. Ids are random, never reused: a process id could be another
// program's by now.
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

// Replica is this process as one of them.
type Replica struct {
	ID   string
	dir  string
	lock *flock.File
}

// Join makes this process one of the replicas that share dir, which is made if it isn't there. Close ends that, and so does the end of the process.
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
		// The id is random, so no other replica has it. But between the making of the file and its lock, another replica's RemoveDead may
		// find the file unlocked, take the lock and remove it. Another id is tried.
		if !errors.Is(err, flock.ErrLocked) {
			return nil, fmt.Errorf("join replicas: %w", err)
		}
	}
}

func (r *Replica) path(id string) string { return filepath.Join(r.dir, id+suffix) }

// Close makes this process no replica any more.
func (r *Replica) Close() { r.lock.Remove() }

// Alive says whether the replica of that id runs. Where that can't be found out the answer is yes: nothing that it may be using may be removed.
// An id that no replica can have, which somebody else may have written on a container, is not alive.
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
		return true // locked, or the lock can't be tried
	}
	return false
}

// RemoveDead removes the files of the replicas that have died since the last call, and returns their number.
func (r *Replica) RemoveDead() (dead int, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return 0, fmt.Errorf("find dead replicas: %w", err)
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

// Node returns the name of this host among the hosts that share a database: a random one, kept in dir. It outlives processes, and every
// replica on the host has the same.
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
