// Package token checks the API token against the file it lies in.
package token

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Refresh is how old what was read of the file may be: a token that is replaced is good for so long at most. A new
	// one is good at once, since a token that doesn't fit has the file read again.
	Refresh = time.Second

	maxLen = 512 // bytes of a token
)

// File is a token in a file. It is safe for concurrent use.
type File struct {
	path string
	log  *slog.Logger

	current atomic.Pointer[reading]
	mu      sync.Mutex // of reading the file
}

// reading is what the file held at a time.
type reading struct {
	token string // "" admits nobody
	at    time.Time
	err   error
}

// Open reads the token at path, surrounding white space aside.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log}
	token, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read API token: %w (has `rumi init` run?)", err)
	}
	f.current.Store(&reading{token: token, at: time.Now()})
	return f, nil
}

// Check says whether presented is the token. It takes the same time wherever a wrong one differs. While the file can't
// be read or holds no token, nothing is.
func (f *File) Check(presented string) bool {
	if len(presented) == 0 || len(presented) > maxLen {
		return false
	}
	known := f.current.Load()
	if time.Since(known.at) >= Refresh {
		known = f.refresh(known)
	}
	if equal(presented, known.token) {
		return true
	}
	return equal(presented, f.refresh(known).token)
}

// Ready says why nobody is admitted, nil where that isn't so.
func (f *File) Ready() error {
	known := f.current.Load()
	if time.Since(known.at) >= Refresh {
		known = f.refresh(known)
	}
	return known.err
}

// refresh reads the file again, unless somebody else has done so since seen was loaded.
func (f *File) refresh(seen *reading) *reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.current.Load()
	if known != seen {
		return known
	}
	next := &reading{at: time.Now()}
	next.token, next.err = read(f.path)
	switch {
	case next.err != nil && known.err == nil:
		f.log.Error("could not read the API token; nobody is admitted until it can be", "error", next.err)
	case next.err == nil && next.token != known.token:
		f.log.Info("read a new API token")
	}
	f.current.Store(next)
	return next
}

// equal copies both into buffers of the same size, so that nothing is allocated and lengths don't show in the time.
func equal(presented, token string) bool {
	if token == "" {
		return false
	}
	var a, b [maxLen]byte
	copy(a[:], presented)
	copy(b[:], token)
	same := subtle.ConstantTimeCompare(a[:], b[:])
	return same&subtle.ConstantTimeEq(int32(len(presented)), int32(len(token))) == 1
}

// read never quotes the file in its errors.
func read(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxLen+64))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", fmt.Errorf("%s is empty", path)
	case len(token) > maxLen:
		return "", fmt.Errorf("%s holds more than %d bytes", path, maxLen)
	case strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0:
		return "", errors.New(path + " holds a character that no header can carry")
	}
	return token, nil
}
