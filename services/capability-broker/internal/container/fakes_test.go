package container

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// docker stands for the engine: containers by id, and one reader of events.
type docker struct {
	mu         sync.Mutex
	containers map[string]*sandbox.Container
	events     chan sandbox.Event
	made       int
	id         string // of the engine
	down       bool
	refusing   bool          // to create
	onStart    func()        // while the container starts
	ahead      time.Duration // of this process's clock is the one that the engine writes times by
	stopped    []time.Duration
	stuck      map[string]error // to remove, by id
}

func newDocker() *docker {
	return &docker{containers: make(map[string]*sandbox.Container), id: "engine-1", events: make(chan sandbox.Event, 100)}
}

var errDown = fault.Unavailable("Docker is required but not available")

func (d *docker) lock() error {
	d.mu.Lock()
	if d.down {
		d.mu.Unlock()
		return errDown
	}
	return nil
}

func (d *docker) Create(_ context.Context, s sandbox.Spec) (sandbox.Container, error) {
	if err := d.lock(); err != nil {
		return sandbox.Container{}, err
	}
	defer d.mu.Unlock()
	if d.refusing {
		return sandbox.Container{}, fault.Unavailable("no such image")
	}
	d.made++
	c := &sandbox.Container{ID: fmt.Sprint("c", d.made), Kind: s.Kind, Name: s.Name, PackID: s.PackID, Digest: s.Digest, Packages: s.Packages,
		SpecFingerprint: s.Fingerprint(), Status: "created", Created: time.Now()}
	d.containers[c.ID] = c
	return *c, nil
}

func (d *docker) refuseCreate(yes bool) { d.mu.Lock(); defer d.mu.Unlock(); d.refusing = yes }

// publish sends an event; mu is held. While the engine is away, nobody gets any.
func (d *docker) publish(e sandbox.Event) {
	if !d.down {
		d.events <- e
	}
}

func (d *docker) die(c *sandbox.Container, exit sandbox.Exit) {
	c.Status, c.Finished, c.Exit = "exited", time.Now().Add(d.ahead), exit
	d.publish(sandbox.Event{Action: "die", Container: *c, ExitCode: exit.Code})
}

// exits has a pack's container end by itself.
func (d *docker) exits(packID string, exit sandbox.Exit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.containers {
		if c.PackID == packID && c.Status == "running" {
			d.die(c, exit)
		}
	}
}

func (d *docker) ID(context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id, nil
}

// stranger adds a container that the rig did not make: with labels that somebody copied, or of an older version.
func (d *docker) stranger(c sandbox.Container) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Kind = sandbox.Pack
	if c.Name == "" {
		c.Name = c.PackID
	}
	d.containers[c.ID] = &c
	d.publish(sandbox.Event{Action: "start", Container: c})
}

// setClock sets the clock of the engine's host.
func (d *docker) setClock(ahead time.Duration) { d.mu.Lock(); defer d.mu.Unlock(); d.ahead = ahead }

// turns gives a container another status and publishes action.
func (d *docker) turns(id, status, action string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.containers[id].Status = status
	d.publish(sandbox.Event{Action: action, Container: *d.containers[id]})
}

// goes has the engine go away. With exit, all containers end with it.
func (d *docker) goes(exit *sandbox.Exit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = true
	d.events <- sandbox.Event{Action: sandbox.Lost}
	for _, c := range d.containers {
		if exit != nil && c.Status == "running" {
			d.die(c, *exit)
		}
	}
}

func (d *docker) comes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = false
	d.events <- sandbox.Event{Action: sandbox.Resync}
}

func (d *docker) with(id string, do func(c *sandbox.Container)) error {
	if err := d.lock(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c := d.containers[id]
	if c == nil {
		return sandbox.ErrNotFound
	}
	do(c)
	return nil
}

func (d *docker) Start(_ context.Context, id string) error {
	if d.onStart != nil {
		d.onStart()
	}
	return d.with(id, func(c *sandbox.Container) {
		c.Status, c.Started = "running", time.Now().Add(d.ahead)
		d.publish(sandbox.Event{Action: "start", Container: *c})
	})
}

func (d *docker) Stop(_ context.Context, id string, grace time.Duration) error {
	return d.with(id, func(c *sandbox.Container) {
		d.stopped = append(d.stopped, grace)
		if c.Alive() {
			d.die(c, sandbox.Exit{Code: 143})
		}
	})
}

func (d *docker) Remove(_ context.Context, id string) error {
	if err := d.stuck[id]; err != nil {
		return err
	}
	err := d.with(id, func(c *sandbox.Container) {
		if c.Alive() {
			d.die(c, sandbox.Exit{Code: 137})
		}
		delete(d.containers, id)
		d.publish(sandbox.Event{Action: "destroy", Container: *c})
	})
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	return err
}

func (d *docker) List(context.Context, sandbox.Kind) (list []sandbox.Container, err error) {
	if err := d.lock(); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	for _, c := range d.containers {
		list = append(list, *c)
	}
	return list, nil
}

func (d *docker) Find(ctx context.Context, kind sandbox.Kind, name string) (found []sandbox.Container, err error) {
	list, err := d.List(ctx, kind)
	for _, c := range list {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found, err
}

func (d *docker) Stats(context.Context, string) (sandbox.Stats, error) { return sandbox.Stats{}, nil }

// Logs is one line a container: who printed it.
func (d *docker) Logs(_ context.Context, id string, _ sandbox.LogOptions) iter.Seq2[sandbox.Line, error] {
	return func(yield func(sandbox.Line, error) bool) {
		d.mu.Lock()
		c := *d.containers[id]
		d.mu.Unlock()
		yield(sandbox.Line{Time: c.Started.Add(time.Millisecond), Stream: "stdout", Text: "by " + id + " \xff"}, nil)
	}
}

func (d *docker) Status(context.Context) sandbox.Status {
	return sandbox.Status{Available: !d.down}
}

func (d *docker) Events(ctx context.Context, on func(sandbox.Event)) {
	on(sandbox.Event{Action: sandbox.Resync})
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-d.events:
			on(e)
		}
	}
}

func (d *docker) statuses() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, c := range d.containers {
		list = append(list, c.PackID+"="+c.Status)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// approval stands for a gate.View.
type approval struct {
	mu      sync.Mutex
	silent  bool
	states  map[string]gate.State
	failing error // of reports
	reports int
}

func (a *approval) Get(id string) (gate.State, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, known := a.states[id]
	s.Open = s.Open && !a.silent
	return s, known
}

func (a *approval) GetLatest(_ context.Context, id string) (gate.State, bool) { return a.Get(id) }

func (a *approval) All() []gate.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.states))
}

func (a *approval) Fresh() bool { a.mu.Lock(); defer a.mu.Unlock(); return !a.silent }

func (a *approval) set(id, status, digest string) gate.Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[id] = gate.State{PackID: id, Open: status == "approved", Status: pack.Status(status), Digest: digest}
	return gate.Change{PackID: id, State: a.states[id]}
}

func (a *approval) remove(id string) gate.Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.states, id)
	return gate.Change{PackID: id, Removed: true}
}

func (a *approval) silence(silent bool) { a.mu.Lock(); defer a.mu.Unlock(); a.silent = silent }

// shelf has every tree in one folder.
type shelf struct {
	dir  string
	mu   sync.Mutex
	kept map[string]bool
}

func (s *shelf) Get(context.Context, string) (string, error) { return s.dir, nil }

func (s *shelf) Sweep(keep func(string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for digest := range s.kept {
		if !keep(digest) {
			delete(s.kept, digest)
		}
	}
	return nil
}

// packages are copies of dependencies.
type packages struct{ shelf }

func (p *packages) For(context.Context, string) (Packages, error) {
	return Packages{Dir: p.dir, Digest: "e1"}, nil
}

// records are kept in memory, for one replica.
type records struct {
	mu      sync.Mutex
	kept    map[string]Record
	changed bool
	failing error
}

func (r *records) Records(context.Context) ([]Record, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.changed || r.failing != nil {
		return nil, false, r.failing
	}
	r.changed = false
	return slices.Collect(maps.Values(r.kept)), true, nil
}

func (r *records) Record(_ context.Context, packID string) (Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.kept[packID]
	found.PackID = packID
	return found, r.failing
}

func (r *records) PutRecord(_ context.Context, record Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failing != nil {
		return r.failing
	}
	r.kept[record.PackID], r.changed = record, true
	return nil
}

func (r *records) RemoveRecord(_ context.Context, packID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failing != nil {
		return r.failing
	}
	delete(r.kept, packID)
	r.changed = true
	return nil
}

func (r *records) fails(err error) { r.mu.Lock(); defer r.mu.Unlock(); r.failing = err }

// SetRunning is approval's answer to a report: the status of an open gate.
func (a *approval) SetRunning(_ context.Context, id string, running bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failing != nil {
		return a.failing
	}
	if s := a.states[id]; s.Open {
		if s.Status = "approved"; running {
			s.Status = "running"
		}
		a.states[id] = s
	}
	a.reports++
	return nil
}

func (a *approval) reported() int { a.mu.Lock(); defer a.mu.Unlock(); return a.reports }

type auditLog struct {
	mu      sync.Mutex
	entries []string
	failing error
}

func (l *auditLog) Write(_ context.Context, e audit.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing != nil {
		return l.failing
	}
	l.entries = append(l.entries, strings.TrimSpace(fmt.Sprint(e.Action, " ", e.OwnerPack, " ", e.Details["reason"])))
	return nil
}
