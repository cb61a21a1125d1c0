// Package peers implements, by clients of other services, the interfaces that the broker's packages declare. So these packages know no other
// service, and are tested without one.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// Packs implements grant.Packs by the gates that approval pushes.
type Packs struct{ Gates *gate.View }

// Known implements grant.Packs.
func (p Packs) Known(ctx context.Context, packID string) (bool, error) {
	err := gate.MustKnow(ctx, p.Gates, packID)
	if fault.Is(err, fault.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Grantable implements grant.Packs.
func (p Packs) Grantable(packID string) error {
	state, known := p.Gates.Get(packID)
	if !known {
		return fault.PackNotFound()
	}
	return state.Grantable()
}

// Secrets implements builtin.Secrets. Use NewSecrets.
type Secrets struct {
	client *secrets.Client
	reads  map[string]prometheus.Counter // by result
}

// NewSecrets makes Secrets, and registers their metrics.
func NewSecrets(c *secrets.Client, registry prometheus.Registerer) Secrets {
	reads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_secret_reads_total",
		Help: "Values that were asked for, by result: ok, not_found, timeout and cancelled (of the pack's call), failed. What a grant withholds isn't asked for.",
	}, []string{"result"})
	registry.MustRegister(reads)
	s := Secrets{c, make(map[string]prometheus.Counter)}
	for _, result := range []string{readOK, readNotFound, readTimeout, readCanceled, readFailed} {
		s.reads[result] = reads.WithLabelValues(result)
	}
	return s
}

// The results of reads.
const (
	readOK       = "ok"
	readNotFound = "not_found"
	readTimeout  = "timeout"
	readCanceled = "cancelled"
	readFailed   = "failed"
)

// Value implements builtin.Secrets.
func (s Secrets) Value(ctx context.Context, key string, asked func()) (string, error) {
	value, err := s.client.Value(client.OnceSent(ctx, asked), key)
	s.reads[readResult(err)].Inc()
	return value.Reveal(), err
}

func readResult(err error) string {
	switch {
	case err == nil:
		return readOK
	case fault.Is(err, fault.KindNotFound):
		return readNotFound
	case errors.Is(err, context.DeadlineExceeded):
		return readTimeout
	case errors.Is(err, context.Canceled):
		return readCanceled
	}
	return readFailed
}

// Environments implements container.Environments with read-only copies of what pip-installer has installed, a folder for each digest.
type Environments struct {
	client *pip.Client
	cache  *tree.Cache
	owners sync.Map // digest → a pack that has it: pip-installer is asked for a pack's environment, not for a digest
}

// NewEnvironments makes Environments whose copies are in dir, which exists.
func NewEnvironments(client *pip.Client, dir string) *Environments {
	e := &Environments{client: client}
	e.cache = tree.NewCache(dir, func(ctx context.Context, digest string) (io.ReadCloser, error) {
		owner, ok := e.owners.Load(digest)
		if !ok {
			return nil, fmt.Errorf("fetch environment: no pack has %s", digest)
		}
		return client.Tree(ctx, owner.(string), digest)
	})
	return e
}

// For implements container.Environments.
func (e *Environments) For(ctx context.Context, packID string) (container.Packages, error) {
	env, err := e.client.Environment(ctx, packID)
	if fault.Is(err, fault.KindNotFound) {
		return container.Packages{}, nil
	}
	if err != nil {
		return container.Packages{}, err
	}
	e.owners.Store(env.Digest, packID)
	dir, err := e.cache.Get(ctx, env.Digest)
	return container.Packages{Dir: dir, Digest: env.Digest, Lock: env.CandidateKey}, err
}

// HandlerEnvironments implements worker.Environments: a handler runs with what is installed for its pack. A pack's own container is different:
// it starts with one environment and keeps it.
type HandlerEnvironments struct {
	*Environments
	lock string   // container.TreesLock: while it is held shared, no replica of this host sweeps the copies
	last sync.Map // pack → the digest that pip-installer has named last
}

// ForHandlers returns the environments as handlers use them. lock is container.TreesLock.
func (e *Environments) ForHandlers(lock string) *HandlerEnvironments {
	return &HandlerEnvironments{Environments: e, lock: lock}
}

// Use implements worker.Environments.
func (h *HandlerEnvironments) Use(ctx context.Context, packID string, fn func(path, digest string) error) error {
	held := flock.NewShared(h.lock)
	if err := held.Lock(ctx); err != nil {
		return err
	}
	defer held.Close()
	digest, err := h.Current(ctx, packID)
	if known, ok := h.last.Load(packID); err != nil && ok {
		digest, err = known.(string), nil // a pip-installer that can't be reached stops no handler
	}
	if err != nil {
		return fmt.Errorf("find a handler's packages: %w", err)
	}
	path := ""
	if digest != "" {
		if path, err = h.cache.Get(ctx, digest); err != nil {
			return fmt.Errorf("find a handler's packages: %w", err)
		}
	}
	return fn(path, digest)
}

// Current implements worker.Environments.
func (h *HandlerEnvironments) Current(ctx context.Context, packID string) (string, error) {
	env, err := h.client.Environment(ctx, packID)
	if err != nil && !fault.Is(err, fault.KindNotFound) {
		return "", err
	}
	if env.Digest != "" {
		h.owners.Store(env.Digest, packID)
	}
	h.last.Store(packID, env.Digest)
	return env.Digest, nil
}

// Sweep implements container.Environments.
func (e *Environments) Sweep(keep func(digest string) bool) error {
	e.owners.Range(func(digest, _ any) bool {
		if !keep(digest.(string)) {
			e.owners.Delete(digest)
		}
		return true
	})
	return e.cache.Sweep(keep)
}

// Sources implements handler.Sources by the files that pack-registry reads.
type Sources struct{ Client *registry.Client }

// Select implements handler.Sources.
func (s Sources) Select(ctx context.Context, patterns ...string) ([]handler.Source, error) {
	packs, err := s.Client.Select(ctx, patterns...)
	if err != nil {
		return nil, err
	}
	list := make([]handler.Source, 0, len(packs))
	for _, p := range packs {
		source := handler.Source{PackID: p.PackID, Base: p.Base, Error: p.Error}
		for _, f := range p.Files {
			source.Files = append(source.Files, handler.File{Path: f.Path, SHA256: f.SHA256, Content: f.Content, Error: f.Error})
		}
		list = append(list, source)
	}
	return list, nil
}
