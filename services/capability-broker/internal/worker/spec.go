package worker

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// Spec says what a worker is to be: whose code, for whom, with what. Calls share workers only if their specs are the same.
type Spec struct {
	Trust     *handler.Trust
	Principal string
	Grants    string       // identifies the grants themselves, not what they allow: see grant.Chain.Identity
	Limits    grant.Limits // as granted; when a worker starts, the operator's ceiling is applied to them
	Mounts    []grant.Mount
}

// SpecFor is the spec of the workers of a trusted handler for a principal, under what the principal's grants allow.
func SpecFor(t *handler.Trust, principal string, p grant.Permit) Spec {
	return Spec{Trust: t, Principal: principal, Grants: p.Chain.Identity(), Limits: p.Limits, Mounts: p.Mounts}
}

// key distinguishes groups of workers. It identifies the decisions (this approval of the handler, these grants), not what they
// allow. So a handler that is approved again, or a permission that is revoked and granted again, gets new workers even if
// nothing in them changed: in an old worker something may be left of what was allowed before.
type key struct{ packID, slug, digest, principal, grants, sandbox string }

func (s Spec) key() key {
	k := key{packID: s.Trust.PackID, slug: s.Trust.Slug, principal: s.Principal, grants: s.Grants}
	k.digest = s.Trust.FolderDigest + s.Trust.InstalledAt.UTC().Format(" "+time.RFC3339Nano)
	if l := s.Limits; l.MemoryMB != nil || l.CPUs != nil || l.PIDs != nil {
		k.sandbox = fmt.Sprint(deref(l.MemoryMB), deref(l.CPUs), deref(l.PIDs))
	}
	for _, m := range s.Mounts {
		k.sandbox += fmt.Sprintf(" %q %q %t", m.Source, m.TargetPath(), m.Writable())
	}
	return k
}

// SharesWorkers says whether calls of two specs share workers.
func (s Spec) SharesWorkers(other Spec) bool { return s.key() == other.key() }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
