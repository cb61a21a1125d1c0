package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	// FileName is the name of the copy in the folder that services mount.
	FileName = "policy.json"
	// ProblemName is the file beside it that says, in one line, why the operator's newest file is not in force. It is there only if so.
	ProblemName = FileName + ".problem"
	// Refresh is how often a Reader looks for a new copy.
	Refresh = 200 * time.Millisecond
)

// Read reads and parses a policy file. It follows no link, and nothing but a regular file is read: the writer may not be the reader. The error
// is a *fs.PathError or Parse's.
func Read(path string) (*Policy, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0) // a FIFO must not hold the start up
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("no regular file")}
	}
	text, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// Auditor writes audit entries; *audit.Log implements it.
type Auditor interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Source is where decisions get the policy in force; *Reader is one.
type Source interface {
	// Current never waits. Ask again for each decision: another policy may be in force.
	Current() *Policy
}

// Fixed is a Source of one policy that doesn't change.
type Fixed struct{ Policy *Policy }

// Current implements Source.
func (f Fixed) Current() *Policy { return f.Policy }

// Reader has the policy in force, and follows the copy of the operator's file. Use Open. It is safe for concurrent use.
type Reader struct {
	dir     string
	log     *slog.Logger
	audit   Auditor
	current atomic.Pointer[Policy]

	mu      sync.Mutex
	problem error // why the newest copy is not in force
}

// Open reads the copy in a folder. A service whose policy can't be read must not start: it would allow what the operator has forbidden. That
// there is no ceiling is written in the copy, too (None); an empty folder is an error.
func Open(dir string, log *slog.Logger, auditor Auditor) (*Reader, error) {
	r := &Reader{dir: dir, log: log, audit: auditor}
	p, err := Read(filepath.Join(dir, FileName))
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w (run: docker compose up --detach)", err)
	}
	r.current.Store(p)
	log.Info("policy in force", "digest", p.Digest())
	return r, nil
}

// Current is the policy in force. It takes no lock.
func (r *Reader) Current() *Policy { return r.current.Load() }

// Follow has Current follow the copy until ctx ends. A copy that can't be read leaves the policy as it is.
func (r *Reader) Follow(ctx context.Context) error {
	return periodic.Run(ctx, Refresh, func(ctx context.Context) {
		err := r.refresh(ctx)
		r.mu.Lock()
		before := r.problem
		r.problem = err
		r.mu.Unlock()
		if err != nil && (before == nil || before.Error() != err.Error()) {
			r.log.ErrorContext(ctx, "the newest policy is not in force; the one from before is", "error", err)
		}
	})
}

// refresh puts the copy in force if it is another one. The audit entry comes first: no decision is taken by a policy that the audit log doesn't name.
func (r *Reader) refresh(ctx context.Context) error {
	next, err := Read(filepath.Join(r.dir, FileName))
	if err != nil {
		return err
	}
	before := r.current.Load()
	if bytes.Equal(next.text, before.text) {
		return nil
	}
	err = r.audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Info, Action: "policy_changed", Success: true,
		Details: map[string]any{"digest": next.Digest(), "previous_digest": before.Digest()},
	})
	if err != nil {
		return err
	}
	r.current.Store(next)
	r.log.InfoContext(ctx, "policy has changed", "digest", next.Digest(), "previous_digest", before.Digest())
	return nil
}

// Ready is nil if the operator's newest policy is in force, otherwise an error that says why it isn't.
func (r *Reader) Ready() error {
	r.mu.Lock()
	err := r.problem
	r.mu.Unlock()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(r.dir, ProblemName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(text)))
}
