package token

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// Bounds of what a caller may ask for.
const (
	MaxNotes   = 4096           // bytes
	MaxOverlap = 24 * time.Hour // for which the old secret may work on after a rotation
	maxLineage = 64             // names: they go with each call in a header
)

// Service makes, lists, revokes and rotates tokens. Each change has an audit entry, written before it is committed. The caller is the context's
// principal.
type Service struct {
	cache *Cache
	file  *File
	uses  *Uses
	audit Auditor
}

// Auditor writes audit entries; *audit.Log is it.
type Auditor interface {
	Write(ctx context.Context, e audit.Entry) error
}

// NewService makes the service. file is init's token, which is listed among the others.
func NewService(cache *Cache, file *File, uses *Uses, auditor Auditor) *Service {
	return &Service{cache, file, uses, auditor}
}

// Request asks for a token.
type Request struct {
	Name      string
	Role      access.Role
	Scopes    access.Scopes
	ExpiresAt time.Time // zero for never
	Notes     string
}

// nameForm leaves out what actors of other kinds have: the colon of "pack:x", the comma that separates the names of a lineage.
var nameForm = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]{0,63}\z`)

// reserved are the actors of audit entries that are no token of the database.
var reserved = []string{InitName, "system", "anonymous", "operator"}

func (r *Request) check(now time.Time) error {
	switch {
	case r.Name == "":
		return fault.Missing("name")
	case !nameForm.MatchString(r.Name):
		return fault.Invalid("Invalid name: want 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit").With("invalid_token_name")
	case slices.Contains(reserved, r.Name):
		return fault.Invalid("The name '%s' is reserved: take another one", r.Name).With("token_name_reserved")
	case r.Role == "":
		return fault.Missing("role")
	case !r.Role.Known():
		return fault.InvalidField("role", "viewer, operator or admin")
	case len(r.Notes) > MaxNotes:
		return fault.TooLong("notes", MaxNotes)
	case !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now):
		return fault.ExpiresTooEarly()
	}
	return r.checkScopes()
}

func (r *Request) checkScopes() error {
	if err := r.Scopes.Check(); err != nil {
		if unknown, ok := errors.AsType[*access.UnknownVerbError](err); ok {
			return fault.Invalid("Unknown verb '%s' (known: %s; also packs.*, *.read, *)", unknown.Pattern, known()).With("unknown_verb").Because(err)
		}
		return fault.Invalid("Invalid scopes: %s", err).With("invalid_scopes")
	}
	for i, scope := range r.Scopes {
		for _, id := range scope.Packs {
			if _, err := pack.ParseID(id); err != nil {
				return fault.Invalid("Invalid pack_id in scopes[%d].packs: want whole ids, such as my_pack", i).With("invalid_pack_id").Because(err)
			}
		}
	}
	return nil
}

func known() string {
	var names []string
	for _, v := range access.Verbs() {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}

// mayGive says why a caller may not hand out a token with these rights: nobody gives what he doesn't have. That holds for a rotation, too, which
// shows the caller the new secret.
func mayGive(caller *principal.Principal, role access.Role, scopes access.Scopes, expires time.Time) error {
	wide := func(format string, args ...any) error {
		return fault.Denied("Token too wide: "+format, args...).With("token_too_wide")
	}
	switch {
	case !caller.Role.Covers(role):
		return wide("the role %s has more rights than yours, %s", role, caller.Role)
	case !caller.Scopes.Cover(scopes):
		return wide("your token is limited to: %s. Ask for scopes within these", caller.Scopes)
	case caller.TokenID != "" && !caller.Expires.IsZero() && (expires.IsZero() || expires.After(caller.Expires)):
		// Otherwise a token that ends could live on in one that it has made. A person who has signed in has no such end, the session alone has.
		return wide("your token expires at %s. Ask for expires_at at or before that", caller.Expires.Format(time.RFC3339))
	}
	return nil
}

// Create makes a token. text is the token itself; it is nowhere else, and can't be had again.
func (s *Service) Create(ctx context.Context, r Request) (text string, t Token, err error) {
	now, caller := storedNow(), principal.Of(ctx)
	r.ExpiresAt = r.ExpiresAt.Truncate(time.Microsecond)
	if err := r.check(now); err != nil {
		return "", t, err
	}
	if err := mayGive(caller, r.Role, r.Scopes, r.ExpiresAt); err != nil {
		return "", t, err
	}
	lineage := descend(ancestors(caller), caller.Name)
	if len(lineage) > maxLineage {
		return "", t, lineageTooLong()
	}
	on, err := s.cache.connected()
	if err != nil {
		return "", t, err
	}
	id := newID()
	text, secret := newText(id)
	t = Token{
		ID: id, Name: r.Name, Role: r.Role, Scopes: r.Scopes, Notes: r.Notes, Lineage: lineage, Hash: secret.String(),
		CreatedAt: now, CreatedBy: caller.Name, ExpiresAt: r.ExpiresAt,
	}
	audited := false // the transaction may run again, its entry must not
	taken, err := on.store.Create(ctx, &t, func() error {
		if audited {
			return nil
		}
		audited = true
		return s.write(ctx, "token_created", &t, map[string]any{"notes": t.Notes, "lineage": t.Lineage})
	})
	switch {
	case err != nil:
		return "", t, err
	case taken:
		return "", t, fault.Conflict("There is or was a token named '%s'. Names are never used twice, so that audit entries stay clear: take another one", r.Name).
			With("token_name_taken")
	}
	s.follow(ctx, on)
	return text, t, nil
}

// ancestors is the lineage of a principal, as a list.
func ancestors(p *principal.Principal) []string {
	if p.Lineage == "" {
		return nil
	}
	return strings.Split(p.Lineage, ",")
}

func lineageTooLong() error {
	return fault.Conflict("Too many tokens have made each other: use the token in user_data/settings/api_token").With("lineage_too_long")
}

// follow brings this gateway's copy up to a change. Where that fails the change stands; the copy follows as soon as it can.
func (s *Service) follow(ctx context.Context, on *connection) {
	if err := on.snapshot.Reload(context.WithoutCancel(ctx)); err != nil {
		s.cache.log.WarnContext(ctx, "a change of the API tokens is in the database, and not yet in this gateway's copy", "error", err)
	}
}

// Revoke ends a token for good. revoked is false where that was done before. When it returns nil, this gateway refuses the token, and its streams
// end; the others follow within a second.
func (s *Service) Revoke(ctx context.Context, id string) (t Token, revoked bool, err error) {
	now, caller := storedNow(), principal.Of(ctx)
	on, err := s.changeable(id)
	if err != nil {
		return t, false, err
	}
	audited := false
	found, err := on.store.Change(ctx, id, func(stored *Token) error {
		revoked = stored.RevokedAt.IsZero()
		if revoked {
			stored.RevokedAt, stored.RevokedBy = now, caller.Name
			stored.OldHash, stored.OldUntil = "", time.Time{}
		}
		t = *stored
		if !revoked || audited {
			return nil
		}
		audited = true
		return s.write(ctx, "token_revoked", stored, nil)
	})
	if err != nil {
		return t, false, err
	}
	if !found {
		return t, false, notFound()
	}
	return t, revoked, on.snapshot.Reload(context.WithoutCancel(ctx))
}

// Rotate gives a token another secret. The old one is refused at once, or works on for some seconds.
func (s *Service) Rotate(ctx context.Context, id string, overlapSeconds int) (text string, t Token, err error) {
	now, caller := storedNow(), principal.Of(ctx)
	if most := int(MaxOverlap.Seconds()); overlapSeconds < 0 || overlapSeconds > most {
		return "", t, fault.InvalidField("overlap_seconds", fmt.Sprintf("a whole number from 0 to %d", most))
	}
	overlap := time.Duration(overlapSeconds) * time.Second
	on, err := s.changeable(id)
	if err != nil {
		return "", t, err
	}
	text, secret := newText(id)
	audited := false
	found, err := on.store.Change(ctx, id, func(stored *Token) error {
		if state := stored.State(now); state != Active {
			return fault.Conflict("Token '%s' is %s: make another one", stored.Name, state).With("token_not_active")
		}
		if err := mayGive(caller, stored.Role, stored.Scopes, stored.ExpiresAt); err != nil {
			return err
		}
		if err := stored.rotate(caller, secret, now, overlap); err != nil {
			return err
		}
		t = *stored
		if audited {
			return nil
		}
		audited = true
		return s.write(ctx, "token_rotated", stored, map[string]any{"overlap_seconds": overlapSeconds, "lineage": stored.Lineage})
	})
	if err != nil {
		return "", t, err
	}
	if !found {
		return "", t, notFound()
	}
	s.follow(ctx, on)
	return text, t, nil
}

// rotate replaces the secret. Who rotates another's token sees its new secret, and could act by it. So he is in its lineage from then on, with those
// who could act by his: two persons must decide where two have to (RUMI_APPROVALS_REQUIRED), and one with two tokens isn't two.
func (t *Token) rotate(by *principal.Principal, secret hash, now time.Time, overlap time.Duration) error {
	t.OldHash, t.OldUntil = "", time.Time{}
	if overlap > 0 {
		t.OldHash, t.OldUntil = t.Hash, now.Add(overlap)
	}
	t.Hash, t.RotatedAt, t.RotatedBy = secret.String(), now, by.Name
	if by.Name != t.Name {
		t.Lineage = descend(t.Lineage, descend(ancestors(by), by.Name)...)
	}
	t.Lineage = slices.DeleteFunc(t.Lineage, func(name string) bool { return name == t.Name })
	if len(t.Lineage) > maxLineage {
		return lineageTooLong()
	}
	return nil
}

// changeable finds out whether an id may be one of a token that can be changed.
func (s *Service) changeable(id string) (*connection, error) {
	switch {
	case id == InitName:
		return nil, fault.Conflict("The token init is a file: to change it, replace user_data/settings/api_token").With("init_token")
	case !isID(id):
		return nil, fault.Invalid("Invalid token_id: want the id that GET /api/tokens lists, %d of a-z and 0-9", idLen).With("invalid_token_id")
	}
	return s.cache.connected()
}

func notFound() error { return fault.NotFound("Token not found").With("token_not_found") }

// Listed is a token in the list.
type Listed struct {
	Token
	LastUse principal.Use // zero for never
}

// List lists all tokens with their last uses: init's first, then the oldest first.
func (s *Service) List(ctx context.Context) ([]Listed, error) {
	on, err := s.cache.connected()
	if err != nil {
		return nil, err
	}
	if err := s.uses.Flush(ctx); err != nil {
		return nil, err
	}
	tokens, _, err := on.store.Tokens(ctx, 0)
	if err != nil {
		return nil, err
	}
	uses, err := on.store.Uses(ctx)
	if err != nil {
		return nil, err
	}
	first := Token{ID: InitName, Name: InitName, Role: access.Admin, Notes: "the file user_data/settings/api_token"}
	if err := s.file.Ready(); err != nil {
		first.Unreadable = err.Error()
	}
	list := append(make([]Listed, 0, len(tokens)+1), Listed{first, uses[InitName]})
	for _, t := range tokens {
		list = append(list, Listed{t, uses[t.ID]})
	}
	return list, nil
}

// write audits a change of a token.
func (s *Service) write(ctx context.Context, action string, t *Token, more map[string]any) error {
	details := map[string]any{"token": t.Name, "token_id": t.ID, "role": t.Role}
	if len(t.Scopes) > 0 {
		details["scopes"] = t.Scopes
	}
	if !t.ExpiresAt.IsZero() {
		details["expires_at"] = t.ExpiresAt
	}
	for name, value := range more {
		details[name] = value
	}
	return s.audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: action, Success: true, Details: details})
}

// storedNow is the time as the store keeps it.
func storedNow() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
