package token

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// InitName is the name of the token in init's file. It is its id, too.
const InitName = "init"

const (
	// Refresh is how old what was read of the file may be: a token that is replaced is good for so long at most. A new
	// one is good at once, since a token that doesn't fit has the file read again.
	Refresh = time.Second

	maxLen = 512 // bytes of a token
)

// File is the token that init has made, in its file. It is safe for concurrent use.
//
// The file has two names (hard links): the operator's, user_data/settings/api_token, and the gateway's, in a folder that
// holds nothing else. While the operator writes into the file, both are the same. If the operator replaces or removes
// the first, the file has only the gateway's name left, and its token is no longer valid: such a file is refused.
type File struct {
	path    string
	log     *slog.Logger
	changed func() // called after each replacement of the token by another one
	lastUse principal.LastUse

	current atomic.Pointer[reading]
	mu      sync.Mutex // one goroutine reads the file at a time
}

// reading is what the file held at a time. It is never changed, so that Check reads it without a lock.
type reading struct {
	token   string // "" admits no client
	last    string // the token, or where there is none the one before
	at      time.Time
	err     error
	session *principal.Session // of the token; it has ended where there is none
}

// Open reads the token at path, surrounding white space aside. changed is called whenever another token
// has replaced it, even if there was none for a time.
func Open(path string, log *slog.Logger, changed func()) (*File, error) {
	f := &File{path: path, log: log, changed: changed}
	token, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read API token: %w (run init: docker compose up --detach)", err)
	case err != nil && !errors.Is(err, errReplaced):
		return nil, fmt.Errorf("read API token: %w", err)
	}
	first := &reading{token: token, last: token, at: time.Now(), err: err, session: principal.NewSession()}
	if err != nil {
		first.session.End()
	}
	f.current.Store(first)
	return f, nil
}

// errReplaced is the error for a file that has lost the operator's name: its token was replaced or removed.
var errReplaced = errors.New("user_data/settings/api_token was replaced or removed, and the new one is not known yet; " +
	"if this stays, run: docker compose up --detach")

// Authenticate implements principal.Authenticator: the file's token is an admin named init. A wrong one takes the same time wherever it
// differs. While the file can't be read or holds no token, nothing is right.
func (f *File) Authenticate(presented string) (principal.Principal, error) {
	session := f.check(presented)
	if session == nil {
		return principal.Principal{}, principal.ErrUnknown
	}
	return principal.Principal{Name: InitName, Role: access.Admin, TokenID: InitName, Session: session, LastUse: &f.lastUse}, nil
}

// check is the session of the token, nil where presented is another one.
func (f *File) check(presented string) *principal.Session {
	if len(presented) == 0 || len(presented) > maxLen {
		return nil
	}
	known := f.current.Load()
	if time.Since(known.at) >= Refresh {
		known = f.refresh(known)
	}
	if !equal(presented, known.token) {
		if known = f.refresh(known); !equal(presented, known.token) {
			return nil
		}
	}
	return known.session
}

// Follow reads the file again and again until ctx ends, so that the streams of a token that was replaced end within a second although nobody asks
// for anything.
func (f *File) Follow(ctx context.Context) error {
	return periodic.Run(ctx, Refresh/2, func(context.Context) { f.refresh(f.current.Load()) })
}

// Ready is the reason why no token is accepted, nil where one is.
func (f *File) Ready() error {
	known := f.current.Load()
	if time.Since(known.at) >= Refresh {
		known = f.refresh(known)
	}
	return known.err
}

// refresh reads the file again, unless another goroutine has done so since seen was loaded: many requests with a wrong token at once read
// it once.
func (f *File) refresh(seen *reading) *reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.current.Load()
	if known != seen {
		return known
	}
	next := &reading{at: time.Now(), last: known.last, session: known.session}
	if next.token, next.err = read(f.path); next.err == nil {
		next.last = next.token
	}
	switch {
	case next.err != nil:
		known.session.End()
	case next.token != known.token:
		known.session.End()
		next.session = principal.NewSession()
	}
	switch {
	case next.err != nil && known.err == nil:
		f.log.Error("could not read the API token; nobody is admitted until it can be", "error", next.err)
	case next.err == nil && known.err != nil:
		f.log.Info("the API token can be read again")
	}
	f.current.Store(next)
	if next.err == nil && next.last != known.last {
		f.log.Warn("the API token has changed; the old one is no longer good")
		f.changed()
	}
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
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold requests up
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxLen+64))
	if err != nil {
		return "", err
	}
	// After the read: what was read of a file that is replaced meanwhile doesn't count.
	if info, err = file.Stat(); err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink < 2 {
		return "", errReplaced
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
