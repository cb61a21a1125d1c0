// Package observer writes into the audit log when a service stops answering, and when it answers again. A service that died can't write that itself
// (libs/service writes what a service finds out about itself).
package observer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	interval = 2 * time.Second
	timeout  = time.Second // for an answer
	// patience is for how long a service doesn't answer before it is unreachable. A restart takes less.
	patience = 10 * time.Second
)

// Names of files in Config.Dir.
const (
	lockFile  = "observer.lock"
	stateFile = "observer.json"
)

// Config has the parts of an Observer.
type Config struct {
	Dir      string   // of the gateways' state: all gateways of a host share it
	Services []string // to be asked
	Answers  func(ctx context.Context, service string) bool
	Audit    *audit.Log
	Log      *slog.Logger
}

// Observer asks services whether they are there. Of several gateways one does, that has the lock; the kernel drops the lock of one that died. Use New,
// and Run.
type Observer struct {
	cfg         Config
	lock        *flock.File
	held        bool
	unreachable map[string]time.Time // since when they don't answer, as the audit log has it
	silent      map[string]time.Time // since when they don't answer
}

// New makes an Observer.
func New(cfg Config) *Observer {
	return &Observer{cfg: cfg, lock: flock.New(filepath.Join(cfg.Dir, lockFile)), silent: map[string]time.Time{}}
}

// Run observes until ctx ends.
func (o *Observer) Run(ctx context.Context) error {
	defer o.lock.Close()
	last := ""
	return periodic.Run(ctx, interval, func(ctx context.Context) {
		problem := ""
		if err := o.observe(ctx); err != nil && ctx.Err() == nil {
			problem = err.Error()
		}
		if problem != "" && problem != last { // said once, not each two seconds
			o.cfg.Log.ErrorContext(ctx, "observing the services failed; trying again", "error", problem)
		}
		last = problem
	})
}

func (o *Observer) observe(ctx context.Context) error {
	if !o.held {
		if err := o.lock.Try(); errors.Is(err, flock.ErrLocked) {
			return nil
		} else if err != nil {
			return err
		}
		if err := o.load(); err != nil {
			return err
		}
		o.held = true
	}
	answers := o.ask(ctx)
	if ctx.Err() != nil {
		return nil // this gateway stops: that nobody has answered it means nothing
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		problems = append(problems, o.note(ctx, name, answers[name]))
	}
	return errors.Join(problems...)
}

// ask asks all services at a time.
func (o *Observer) ask(ctx context.Context) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex
	answers := map[string]bool{}
	var asking sync.WaitGroup
	for _, name := range o.cfg.Services {
		asking.Go(func() {
			answered := o.cfg.Answers(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = answered
		})
	}
	asking.Wait()
	return answers
}

// note writes an entry if a service has become unreachable, or is there again.
func (o *Observer) note(ctx context.Context, name string, answers bool) error {
	since, unreachable := o.unreachable[name]
	if answers {
		delete(o.silent, name)
		if !unreachable {
			return nil
		}
		delete(o.unreachable, name)
		if err := o.write(ctx, name, since, true); err != nil {
			o.unreachable[name] = since
			return err
		}
		return o.store()
	}
	if o.silent[name].IsZero() {
		o.silent[name] = time.Now().UTC()
	}
	if unreachable || time.Since(o.silent[name]) < patience {
		return nil
	}
	if err := o.write(ctx, name, o.silent[name], false); err != nil {
		return err
	}
	o.unreachable[name] = o.silent[name]
	return o.store()
}

// write writes the entry. It comes before the state: where a gateway is killed in between, the next one writes it once more, which is better than not at
// all.
func (o *Observer) write(ctx context.Context, name string, since time.Time, reachable bool) error {
	entry := audit.Entry{Category: audit.System, Severity: audit.Error, Action: "service_unreachable", Error: "the service does not answer",
		Details: map[string]any{"service": name, "since": since.Format(time.RFC3339Nano)}}
	if reachable {
		entry.Severity, entry.Action, entry.Success, entry.Error = audit.Info, "service_reachable", true, ""
		entry.Details["after_seconds"] = time.Since(since).Round(time.Millisecond).Seconds()
	}
	return o.cfg.Audit.Write(ctx, entry)
}

// load reads what the gateway that had the lock before has written last. A file that can't be read is as none: at worst an entry comes twice.
func (o *Observer) load() error {
	o.unreachable = map[string]time.Time{}
	data, err := os.ReadFile(filepath.Join(o.cfg.Dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read what the observer before knew: %w", err)
	}
	if err := json.Unmarshal(data, &o.unreachable); err != nil {
		o.cfg.Log.Error("what the observer before knew can't be read; beginning anew", "error", err)
		o.unreachable = map[string]time.Time{}
	}
	maps.DeleteFunc(o.unreachable, func(name string, _ time.Time) bool { return !slices.Contains(o.cfg.Services, name) })
	return nil
}

func (o *Observer) store() error {
	data, err := json.Marshal(o.unreachable, json.Deterministic(true))
	if err != nil {
		return err
	}
	return atomicfile.WritePath(filepath.Join(o.cfg.Dir, stateFile), data, 0o640)
}
