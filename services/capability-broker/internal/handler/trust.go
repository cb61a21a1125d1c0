package handler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

// followInterval is how often a replica asks for trust that others have given or withdrawn.
const followInterval = 250 * time.Millisecond

// Trust is the decision that a folder with exactly these bytes may serve one permission.
type Trust struct {
	CandidateKey string
	PackID       string
	Slug         string
	HandlerID    string
	PermissionID string
	Entrypoint   string // handler.py:FUNCTION
	ScriptSHA256 string // of handler.py, hex
	FolderDigest string // of the whole folder, "sha256:…" as libs/tree has it
	InstalledAt  time.Time
	InstalledBy  string
	ConfigSchema jsontext.Value // what a grant's config must satisfy; nil where any object does

	config *schema.Schema // ConfigSchema as the Registry has compiled it; nil also where it can't be compiled
}

// TrustStore has the methods of Store that a Registry uses.
type TrustStore interface {
	// Trusts returns all trust and the revision that it is of, read in one transaction.
	Trusts(ctx context.Context) ([]Trust, int64, error)
	// TrustRevision is the revision of the last write.
	TrustRevision(ctx context.Context) (int64, error)
}

// trusts is all trust there is. It is never changed once it is the snapshot's value.
type trusts struct {
	byPermission map[string][]*Trust
	bySlug       map[grant.HandlerRef]*Trust
}

// Registry is the trust there is, in memory. It is safe for concurrent use.
type Registry struct {
	store    TrustStore
	snapshot *snapshot.Snapshot[*trusts]
}

// OpenRegistry reads all trust. propagation may be nil.
func OpenRegistry(ctx context.Context, from TrustStore, log *slog.Logger, propagation *snapshot.Propagation) (*Registry, error) {
	r := &Registry{store: from}
	var err error
	r.snapshot, err = snapshot.Open(ctx, snapshot.Config[*trusts]{
		Name: "trust in handlers", Interval: followInterval, Log: log, Revision: from.TrustRevision, Load: r.load, Propagation: propagation,
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Registry) load(ctx context.Context, before *trusts) (*trusts, int64, error) {
	list, revision, err := r.store.Trusts(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read trust: %w", err)
	}
	next := &trusts{byPermission: make(map[string][]*Trust), bySlug: make(map[grant.HandlerRef]*Trust)}
	for i := range list {
		t := &list[i]
		t.compile(before)
		next.byPermission[t.PermissionID] = append(next.byPermission[t.PermissionID], t)
		next.bySlug[t.Ref()] = t
	}
	return next, revision, nil
}

// Reload takes over what the store has.
func (r *Registry) Reload(ctx context.Context) error { return r.snapshot.Reload(ctx) }

// Follow takes over what other replicas write, until ctx ends. Nothing asks whether the trust in memory is still fresh: trust allows
// nothing without a grant, and grants do ask.
func (r *Registry) Follow(ctx context.Context) error { return r.snapshot.Follow(ctx) }

// Revision is that of the trust in memory. It changes whenever trust does.
func (r *Registry) Revision() int64 { return r.snapshot.Revision() }

// For lists the handlers that are trusted to serve a permission. They must not be changed.
func (r *Registry) For(permission string) []*Trust {
	return r.snapshot.Value().byPermission[permission]
}

// All lists everything that is trusted, sorted by pack and slug. It must not be changed.
func (r *Registry) All() []*Trust {
	return slices.SortedFunc(maps.Values(r.snapshot.Value().bySlug), func(a, b *Trust) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Slug, b.Slug))
	})
}

// CheckGrant is a check of grant.Config: it refuses a new grant whose config doesn't satisfy its handler's schema. A permission that no
// handler serves yet may be granted; the config is checked at each call.
func (r *Registry) CheckGrant(_ context.Context, g *grant.Grant) error {
	t, _ := Choose(r.For(g.PermissionID), g.Terms.Handler)
	if t == nil {
		return nil
	}
	if problem := t.CheckConfig(g.Config); problem != "" {
		return fault.Invalid("Invalid config for %s: %s", g.PermissionID, problem).With("invalid_config")
	}
	return nil
}

// Pin has a new grant that names no handler name the only one there is, so that the grant still means this one when a second one is trusted.
func (r *Registry) Pin(g *grant.Grant) {
	if g.Terms.Handler != nil || grant.Reserved(g.PermissionID) {
		return
	}
	if serving := r.For(g.PermissionID); len(serving) == 1 {
		ref := serving[0].Ref()
		g.Terms.Handler = &ref
	}
}

// Permissions lists the permissions that trusted handlers serve, sorted.
func (r *Registry) Permissions() []string {
	return slices.Sorted(maps.Keys(r.snapshot.Value().byPermission))
}

// Of returns what is trusted under a pack and slug, nil for nothing. It must not be changed.
func (r *Registry) Of(packID, slug string) *Trust {
	return r.snapshot.Value().bySlug[grant.HandlerRef{PackID: packID, Slug: slug}]
}

// Choose returns which of a permission's trusted handlers serves a grant: the one that it names, or the only one there is. t is nil where
// none does; then reason says why, for the operator. A grant that names a handler is never served by another one.
func Choose(trusted []*Trust, wanted *grant.HandlerRef) (t *Trust, reason string) {
	names := make([]string, len(trusted))
	for i, t := range trusted {
		ref := t.Ref()
		if names[i] = ref.String(); wanted != nil && ref == *wanted {
			return t, ""
		}
	}
	switch {
	case len(trusted) == 0:
		return nil, "No trusted handler for this permission"
	case wanted != nil:
		return nil, "The handler " + wanted.String() + " is not trusted for this permission, but: " + strings.Join(names, ", ")
	case len(trusted) > 1:
		return nil, "Several handlers are trusted for this permission: " + strings.Join(names, ", ")
	}
	return trusted[0], ""
}

// compile compiles the schema of configs, unless before has it compiled for the same folder.
func (t *Trust) compile(before *trusts) {
	if t.ConfigSchema == nil {
		return
	}
	if before != nil {
		if old := before.bySlug[t.Ref()]; old != nil && old.FolderDigest == t.FolderDigest && old.config != nil {
			t.config = old.config
			return
		}
	}
	t.config, _ = schema.Compile(t.ConfigSchema) // it could be compiled when it was approved; where another version of the broker did that, see CheckConfig
}

// CheckConfig says why a grant's config doesn't satisfy the handler's schema, "" where it does or there is none. A schema that this version
// can't compile is satisfied by nothing.
func (t *Trust) CheckConfig(config jsontext.Value) string {
	switch {
	case t.ConfigSchema == nil:
		return ""
	case t.config == nil:
		return "The config_schema of the handler " + t.Ref().String() + " can't be read; approve it again"
	}
	if problem := t.config.Check(config); problem != "" {
		return "Config does not fit config_schema of the handler " + t.Ref().String() + ": " + problem
	}
	return ""
}

// Ref names the handler as grants do.
func (t *Trust) Ref() grant.HandlerRef { return grant.HandlerRef{PackID: t.PackID, Slug: t.Slug} }

// InstalledTo is the folder of the copy, relative to the Rumi home.
func (t *Trust) InstalledTo() string {
	return path.Join("user_data/capabilities/handlers", t.PackID, t.Slug)
}
