package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

const (
	checkTimeout = time.Second // for each check; a dead mount or database must not hang whoever asks
	minFree      = 8 << 20     // bytes a folder's disk must have left to be written to
)

// ReadyOf is the endpoint at which a service tells the gateway whether it is ready. Every service has it beside those of its own table.
func ReadyOf(owner string) route.Endpoint[struct{}, Readiness] {
	return route.Internal[struct{}, Readiness]("GET", "/internal/ready", owner, roster.Gateway)
}

// Readiness is the answer of /readyz and of GET /internal/ready.
type Readiness struct {
	Ready   bool    `json:"ready"` // every check is ok
	Service string  `json:"service"`
	Version string  `json:"version"`
	Uptime  float64 `json:"uptime_seconds"`
	Checks  []Check `json:"checks"` // in the order of their names
}

// Check is one condition that a service needs for its work.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what is wrong; "" where nothing is
	Fix    string `json:"fix"`    // what the operator can do about it; "" where nothing is known
}

// condition is a registered check. Its last run may still be going on.
type condition struct {
	name  string
	check func(context.Context) error

	mu      sync.Mutex
	pending chan struct{} // closed when the run under way has ended; nil where none is
	err     error         // of the last run that ended
}

// ReadyWhen adds a condition without which /readyz answers 503. It must answer fast and not depend on other services. An
// error made by WithFix tells the operator what to do.
func (rt *Runtime) ReadyWhen(name string, check func(context.Context) error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.ready = append(rt.ready, &condition{name: name, check: check})
	slices.SortStableFunc(rt.ready, func(a, b *condition) int { return strings.Compare(a.name, b.name) })
}

// Readiness runs all checks at once and returns within checkTimeout.
func (rt *Runtime) Readiness(ctx context.Context) Readiness {
	rt.mu.Lock()
	conditions := slices.Clone(rt.ready)
	rt.mu.Unlock()
	answer := Readiness{Ready: true, Service: rt.Name, Version: Version(), Uptime: time.Since(rt.began).Seconds(), Checks: make([]Check, len(conditions))}
	var running sync.WaitGroup
	for i, c := range conditions {
		running.Go(func() { answer.Checks[i] = c.run(ctx) })
	}
	running.Wait()
	for _, c := range answer.Checks {
		answer.Ready = answer.Ready && c.OK
	}
	return answer
}

// run waits for the check no longer than checkTimeout. While a run hangs no other is begun, so that asking often doesn't
// pile up what can't be cancelled, such as a system call on a dead mount.
func (c *condition) run(ctx context.Context) Check {
	c.mu.Lock()
	done := c.pending
	if done == nil {
		done = make(chan struct{})
		c.pending = done
		go func() {
			bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
			defer cancel()
			err := c.check(bound)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.err, c.pending = err, nil
			close(done)
		}()
	}
	c.mu.Unlock()
	timeout := time.NewTimer(checkTimeout + checkTimeout/4)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		return Check{Name: c.name, Detail: fmt.Sprintf("no answer within %v", checkTimeout)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return Check{Name: c.name, OK: true}
	}
	var f *fixable
	if errors.As(c.err, &f) {
		return Check{Name: c.name, Detail: c.err.Error(), Fix: f.fix}
	}
	return Check{Name: c.name, Detail: c.err.Error()}
}

// fixable is an error that the operator can mend.
type fixable struct {
	error
	fix string
}

func (f *fixable) Unwrap() error { return f.error }

// WithFix adds to err what the operator can do about it. It returns nil for nil.
func WithFix(err error, fix string) error {
	if err == nil {
		return nil
	}
	return &fixable{err, fix}
}

// upFix is the command that has init mend folders, keys and certificates.
const upFix = "run: docker compose up --detach"

// ReadableFolder is a condition for ReadyWhen: the folder can be listed.
func ReadableFolder(path string) func(context.Context) error {
	return func(context.Context) error { return folder(path, unix.R_OK|unix.X_OK) }
}

// WritableFolder is a condition for ReadyWhen: files can be made in the folder, and its disk isn't full.
func WritableFolder(path string) func(context.Context) error {
	return func(context.Context) error {
		if err := folder(path, unix.W_OK|unix.X_OK); err != nil {
			return err
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if free := fs.Bavail * uint64(fs.Bsize); free < minFree || fs.Files > 0 && fs.Ffree == 0 {
			return WithFix(fmt.Errorf("%s: its disk is full (%d bytes and %d files free)", path, free, fs.Ffree), "free space on that disk")
		}
		return nil
	}
}

func folder(path string, access uint32) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return WithFix(err, upFix)
	case !info.IsDir():
		return WithFix(fmt.Errorf("%s is no folder", path), "move it elsewhere, then "+upFix)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, access, unix.AT_EACCESS); err != nil {
		return WithFix(fmt.Errorf("%s: %w for uid %d", path, err, os.Geteuid()), upFix)
	}
	return nil
}

func (rt *Runtime) readyz(w http.ResponseWriter, r *http.Request) {
	answer := rt.Readiness(r.Context())
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.MarshalWrite(w, answer); err != nil {
		rt.Log.DebugContext(r.Context(), "could not answer", "error", err)
	}
}

// version is set by the linker: -X github.com/rumi-ai/rumi/libs/service.version=….
var version string

// Version is the version that the binary was built as; "dev" and the revision, where it is known, for one built by hand.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
				return "dev-" + setting.Value[:12]
			}
		}
	}
	return "dev"
}
