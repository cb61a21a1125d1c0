package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	declared "github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// Refusals for want of a right that one address has entries of its own for in the audit log, each minute. A script that goes on asking for what it
// may not have must not fill the disk.
const maxDenials = 30

// request is a request that was authenticated, on its way through the checks.
type request struct {
	*http.Request
	who     *principal.Principal
	route   *route.Route
	subject declared.Subject // of the route
}

// allow decides whether the principal may do what the request asks for, as far as that can be told before its body is read. later is true
// where the body names the pack that decides.
func (e *Edge) allow(r *request) (later bool, err error) {
	verb := r.route.Verb
	switch {
	case r.who.Role == "":
		return false, e.deny(r, "", fmt.Sprintf("the role %s or more; '%s' has none: no group of the person is in RUMI_OIDC_ROLES", verb.Least(), r.who.Name))
	case !r.who.Role.May(verb):
		return false, e.deny(r, "", fmt.Sprintf("the role %s or more; '%s' has the role %s", verb.Least(), r.who.Name, r.who.Role))
	case len(r.who.Scopes) == 0:
		return false, nil
	case !r.who.Scopes.Mention(verb):
		return false, e.deny(r, "", "a scope with that verb; "+e.scopesOf(r))
	}
	if r.subject.Place == declared.InBody {
		return true, nil
	}
	pack := r.subject.Named(r.route, r.Request)
	if pack == "" && r.route.Narrows {
		return false, nil
	}
	return false, e.allowPack(r, pack)
}

// allowBody is the rest of the decision, for routes whose body names the pack. The body is read as the owner of the route reads it, and put
// back.
func (e *Edge) allowBody(r *request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fault.BodyUnreadable().Because(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	into := reflect.New(r.route.Request)
	if err := rpc.DecodeBody(body, into.Interface()); err != nil {
		return err
	}
	return e.allowPack(r, r.subject.InRequest(into.Elem()))
}

func (e *Edge) allowPack(r *request, pack string) error {
	switch {
	case r.who.Scopes.Allow(r.route.Verb, pack):
		return nil
	case pack == "":
		return e.deny(r, "", "a scope for all packs, because the call is not about one pack; "+e.scopesOf(r))
	}
	return e.deny(r, pack, fmt.Sprintf("a scope for pack '%s'; %s", clip(pack), e.scopesOf(r)))
}

func (e *Edge) scopesOf(r *request) string {
	return fmt.Sprintf("'%s' is limited to: %s", r.who.Name, text.Clip(r.who.Scopes.String(), 300))
}

// deny answers a request that its principal has no right to, and audits it.
func (e *Edge) deny(r *request, pack, needs string) error {
	method, verb := r.Method, r.route.Verb
	from := origin.Of(r.Context()).Address
	within, _ := e.denials.Allow(parseAddress(from))
	first := false
	if !within {
		first, _ = e.denialNotes.Allow(parseAddress(from))
	}
	if within || first {
		reason := "needs " + string(verb) + " and " + needs
		if first {
			reason = "too many calls that are not allowed; further ones are not audited for a minute"
		}
		e.writeAudit(r.Context(), audit.Entry{
			Category: audit.Security, Severity: audit.Warning, Action: "access_denied", Success: false,
			Details: map[string]any{
				"verb": verb, "role": r.who.Role, "scopes": text.Clip(r.who.Scopes.String(), 300), "pack_id": clip(pack),
				"method": clip(method), "path": clip(r.URL.Path), "address": from, "limited": first,
			},
			RejectionReason: reason,
		})
	}
	return fault.Denied("Not allowed: %s needs %s and %s", r.route.Name(), verb, needs).With("not_allowed").
		Carrying(deniedData{Verb: verb, Role: verb.Least(), PackID: pack})
}

// deniedData says in the answer to a call that isn't allowed what it would need.
type deniedData struct {
	Verb   access.Verb `json:"verb"`
	Role   access.Role `json:"role"` // the least that has the verb
	PackID string      `json:"pack_id,omitzero"`
}

// errSessionEnded is why a request is cancelled whose credential is no longer good.
var errSessionEnded = errors.New("the session has ended")

// sessionOver is the answer to a request whose token was revoked, or has expired, while it was under way.
func sessionOver() error {
	return fault.Unauthenticated("Unauthorized").With("unauthorized").Because(errSessionEnded)
}

// endWithSession ends the request when its principal's session ends: a read at once, and an upload that is still arriving. Another call with effects that
// has been handed on is let finish, because what became of half of it would be unknown. A read that is short anyway isn't watched, which would
// cost each of them; its answer is withheld where the session has ended meanwhile (see withheld).
func (r *request) endWithSession(w http.ResponseWriter) (stop func()) {
	u, uploading := r.Body.(*upload)
	if r.who.Session == nil || !uploading && (!r.route.Reads() || !long(r.Request, r.route.Class)) {
		return func() {}
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	detach := r.who.Session.OnEnd(func() {
		if !uploading || u.cut() {
			cancel(errSessionEnded)
			server.CutWrite(ctx, w) // the client may have stopped reading: what waits to be written must not hold the stream
		}
	})
	r.Request = r.WithContext(ctx)
	return func() { detach(); cancel(nil) }
}

// long says whether a call may take longer than the quick ones.
func long(r *http.Request, class route.Class) bool {
	return class.Timeout > declared.Quick.Timeout || follows(r, class)
}

// withheld is the fault where the answer to a read must not be sent, because the principal's session has ended while it was made.
func withheld(r *http.Request) error {
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && principal.Of(r.Context()).Session.Ended() {
		return sessionOver()
	}
	return nil
}
