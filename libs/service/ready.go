package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
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
	checkTimeout = time.Second // for each check: a dead mount or database must not make the answer hang
	minFree      = 8 << 20     // free bytes below which a disk counts as full
)

// ReadyOf is the endpoint of the named service that answers its Readiness, for the gateway only. Every service has it beside the endpoints of
// its own table; Runtime.Mux serves it.
func ReadyOf(owner string) route.Endpoint[struct{}, Readiness] {
	return route.Internal[struct{}, Readiness]("GET", "/internal/ready", owner, roster.Gateway)
}

// Readiness is the answer of /readyz, on the admin listener, and of GET /internal/ready.
type Readiness struct {
	Ready   bool    `json:"ready"` // all checks are OK
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

// condition is a check that ReadyWhen registered. At most one run of it is under way, for all requests together.
type condition struct {
	name  string
	check func(context.Context) error

	mu      sync.Mutex
	pending chan struct{} // closed when the run under way has ended; nil where none is
	err     error         // of the last run that ended
}

// ReadyWhen registers a check: while it returns an error, the service isn't ready and /readyz answers 503. name is shown to the operator, as
// is the error's text, and the fix of an error made by WithFix.
//
// check has checkTimeout and runs at each request for readiness, so it must be cheap. It must not ask other services: otherwise one that
// is down would make all services unready, and the report would not show which one it is.
func (rt *Runtime) ReadyWhen(name string, check func(context.Context) error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.ready = append(rt.ready, &condition{name: name, check: check})
	slices.SortStableFunc(rt.ready, func(a, b *condition) int { return strings.Compare(a.name, b.name) })
}

// Readiness runs all checks in parallel. It returns within 1.25 s: a check without a result by then counts as failed.
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

// run runs the check, or waits for the run that is under way. It gives up after a little more than checkTimeout, so that a check that keeps
// to its context can still report its own error. While a run hangs no second one is begun: a system call on a dead mount can't be
// cancelled, and each request for readiness would leave one more goroutine and thread behind.
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

// fixable is an error with the instruction that repairs its cause.
type fixable struct {
	error
	fix string
}

func (f *fixable) Unwrap() error { return f.error }

// WithFix adds to err the instruction for the operator that repairs its cause: "run: …". Check.Fix shows it. It returns nil for nil.
func WithFix(err error, fix string) error {
	if err == nil {
		return nil
	}
	return &fixable{err, fix}
}

// upFix is the command that starts init, which repairs folders, keys and certificates.
const upFix = "run: docker compose up --detach"

// ReadableFolder returns a check for ReadyWhen: path is a folder that this process can list.
func ReadableFolder(path string) func(context.Context) error {
	return func(context.Context) error { return folder(path, unix.R_OK|unix.X_OK) }
}

// ReadyWhenWritable registers a check as ReadyWhen does: path is a folder in which this process can make files, and its disk has at least 8 MiB
// and one file (inode) free. name is for the operator, folder for the metrics of that disk.
func (rt *Runtime) ReadyWhenWritable(name, folder, path string) {
	d := &disk{folder: folder}
	rt.mu.Lock()
	rt.disks = append(rt.disks, d)
	rt.mu.Unlock()
	rt.ReadyWhen(name, writableFolder(path, d))
}

// writableFolder is the check of ReadyWhenWritable. It notes in d what it finds.
func writableFolder(path string, d *disk) func(context.Context) error {
	return func(context.Context) error {
		fs, err := writable(path)
		d.seen.Store(fs)
		return err
	}
}

// writable returns the state of a folder's disk, nil where it can't be told, and why the folder can't be written to.
func writable(path string) (*unix.Statfs_t, error) {
	if err := folder(path, unix.W_OK|unix.X_OK); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < minFree || fs.Files > 0 && fs.Ffree == 0 {
		return &fs, WithFix(fmt.Errorf("%s: its disk is full (%d bytes and %d files free)", path, free, fs.Ffree), "free space on that disk")
	}
	return &fs, nil
}

// folder checks that path is a folder to which this process has access (R_OK, W_OK, X_OK), by its effective ids.
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

// readyz answers Readiness: 200 if the service is ready, else 503.
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

// Version is the version of the binary, as the linker set it. A binary that was built without one has "dev", or "dev-" and the first twelve
// digits of the Git revision if the build knew it.
func Version() string {
	if version != "" {
		return version
	}
	if r := revision(); len(r) >= 12 {
		return "dev-" + r[:12]
	}
	return "dev"
}
