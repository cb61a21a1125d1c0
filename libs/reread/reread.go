// Package reread keeps a value that is read from files: again whenever one of them is written to or replaced, while the service runs. What can't
// be read leaves the last good value in force.
//
//	certificate, err := reread.Open([]string{"cert.pem", "key.pem"}, load, report)
//	current, problem := certificate.Get()
package reread

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Refresh is the least time between two checks of the files. What replaced them is used after that time at the latest.
const Refresh = time.Second

// Value is a T that is read from files. Use Open. It is safe for concurrent use.
type Value[T any] struct {
	paths  []string
	read   func() (T, error)
	report func(T, error)

	mu      sync.Mutex
	checked time.Time // when the fingerprints were compared last
	known   string    // the fingerprints of the files when they were read last
	good    T
	err     error // why the files as they are now aren't used; nil if they are
}

// Open reads the value. It returns the error of read if that fails: a service must not start without. Afterwards read is called, by one goroutine
// at a time, when a fingerprint of a path has changed, and report after it with the result; a failure with the same text is reported once.
func Open[T any](paths []string, read func() (T, error), report func(T, error)) (*Value[T], error) {
	known, _ := fingerprints(paths) // before the reading, so that a change during it is noticed by the next check
	good, err := read()
	if err != nil {
		return nil, err
	}
	return &Value[T]{paths: paths, read: read, report: report, checked: time.Now(), known: known, good: good}, nil
}

// Get returns the last good value, at most Refresh old, and the error of newer files that can't be used. It checks the files at most once per
// Refresh.
func (v *Value[T]) Get() (T, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if now.Sub(v.checked) < Refresh {
		return v.good, v.err
	}
	v.checked = now
	known, err := fingerprints(v.paths)
	if err == nil && known == v.known {
		return v.good, v.err
	}
	var read T
	if err == nil {
		read, err = v.read()
	}
	before := v.err
	v.known, v.err = known, err
	if err == nil {
		v.good = read
	}
	if err == nil || before == nil || before.Error() != err.Error() {
		v.report(read, err)
	}
	return v.good, v.err
}

// fingerprints returns a text that changes whenever one of the files, or a link on the way to it, is written to or replaced.
func fingerprints(paths []string) (string, error) {
	var all strings.Builder
	for _, path := range paths {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return "", &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		fmt.Fprintln(&all, st.Dev, st.Ino, st.Size, st.Ctim)
	}
	return all.String(), nil
}
