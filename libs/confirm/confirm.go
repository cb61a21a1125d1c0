// Package confirm is the rule of two-person approvals: with RUMI_APPROVALS_REQUIRED=2 an approval is asked for by one person and carried
// out when another one confirms it.
//
//	alice approves   → Ask: her request is stored, and nothing is approved
//	alice approves   → Wait: her request is there already
//	bob approves     → Carry: it is approved; alice asked, bob confirmed
//
// The owners of approvals (approval for packs, libs/candidate for handlers and locks) call Judge in all cases and act on its step. They
// store requests, and close them when what they are about changes. The package keeps nothing and knows no database.
package confirm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
)

// Lifetime is how long a request can be confirmed. A person who left a year ago must not be half of a decision of today.
const Lifetime = 7 * 24 * time.Hour

// Approvals is the setting RUMI_APPROVALS_REQUIRED: how many persons an approval takes, 1 or 2. The zero value is 1.
type Approvals int

// UnmarshalText reads the setting. Anything but 1 and 2 is an error: a service that read "3" as 1 would approve too early.
func (a *Approvals) UnmarshalText(text []byte) error {
	switch string(text) {
	case "1":
		*a = 1
	case "2":
		*a = 2
	default:
		return fmt.Errorf("want 1 (one person approves) or 2 (one asks, another confirms)")
	}
	return nil
}

// Two says whether an approval takes two persons.
func (a Approvals) Two() bool { return a >= 2 }

// Terms are what an approval is about. An approval is confirmed only on the terms that it was asked for on, except for the notes.
type Terms struct {
	Digest  string            `json:"digest"`           // of the bytes, "sha256:<hex>"
	Context string            `json:"context,omitzero"` // what else the decision depends on and no caller chooses, such as the identity of a pack's parent
	Options map[string]string `json:"options,omitzero"` // what callers choose, by the name of the request's field: {"allow_sdist": "true"}
	Notes   string            `json:"notes,omitzero"`   // a remark, for people
}

// Request is an approval that a person asked for, as it is stored. It is open until another person confirms it, or its owner drops it.
type Request struct {
	Terms
	AskedBy     string    `json:"asked_by"`              // the name of the token
	Lineage     string    `json:"lineage,omitzero"`      // of that token, as in origin.Origin
	AskedAt     time.Time `json:"asked_at"`              // to the microsecond
	ConfirmedBy string    `json:"confirmed_by,omitzero"` // "" while it is open
}

// Open says whether the request can be confirmed now. A nil request isn't open.
func (r *Request) Open(now time.Time) bool {
	return r != nil && r.ConfirmedBy == "" && now.Before(r.ExpiresAt())
}

// ExpiresAt is the time from which the request can't be confirmed any more.
func (r *Request) ExpiresAt() time.Time { return r.AskedAt.Add(Lifetime) }

// Requester is who asked for an approval that was carried out; "" for one that took one person, for an open request and for nil.
func (r *Request) Requester() string {
	if r == nil || r.ConfirmedBy == "" {
		return ""
	}
	return r.AskedBy
}

// Encode is the request as a store keeps it: JSON, "" for nil.
func (r *Request) Encode() (string, error) {
	if r == nil {
		return "", nil
	}
	text, err := json.Marshal(r, json.Deterministic(true))
	if err != nil {
		return "", fmt.Errorf("write request for an approval: %w", err)
	}
	return string(text), nil
}

// Decode is the inverse of Encode. What can't be read (a damaged row, or one of another version) is no request: then the approval has to be
// asked for anew, and nothing is approved by one person.
func Decode(text string) *Request {
	var r Request
	if text == "" || json.Unmarshal([]byte(text), &r) != nil || r.AskedBy == "" {
		return nil
	}
	return &r
}

// Step is what an approval leads to.
type Step uint8

// The steps.
const (
	Carry Step = iota + 1 // carry the approval out
	Ask                   // store the request; nothing is approved
	Wait                  // the same person has asked for the same already; nothing changes
)

// Judge says what an approval on these terms by the actor of ctx leads to. stored is what is kept of an earlier request, nil for nothing.
//
// The returned request is the one to store with the step: the new one of Ask, the stored one of Wait, the confirmed one of Carry. It is nil
// where one person is enough. The errors:
//
//   - a denied fault "person_required": nobody stands behind the actor (a service, or a request without a name);
//   - a conflict "other_person_required": one token's holder has had the secrets of both, so that both may be one person's;
//   - a conflict "request_differs": the options aren't those that were asked for. The request stays;
//   - a conflict "request_lapsed": the bytes aren't those that were asked for. The owner drops the request.
func (a Approvals) Judge(ctx context.Context, stored *Request, terms Terms, now time.Time) (Step, *Request, error) {
	if !a.Two() {
		return Carry, nil, nil
	}
	actor, err := personOf(ctx)
	if err != nil {
		return 0, nil, err
	}
	asked := &Request{Terms: terms, AskedBy: actor.name, Lineage: actor.lineage, AskedAt: now.UTC().Truncate(time.Microsecond)}
	if !stored.Open(now) {
		return Ask, asked, nil
	}
	asker := person{stored.AskedBy, stored.Lineage}
	same := stored.Digest == terms.Digest && stored.Context == terms.Context
	switch {
	case asker.is(actor) && same && maps.Equal(stored.Options, terms.Options):
		return Wait, stored, nil
	case asker.is(actor): // on other terms: what a person asked for before must not be confirmed instead
		return Ask, asked, nil
	case !same:
		was, is := stored.Digest, terms.Digest
		if was == is {
			was, is = "'"+stored.Context+"'", "'"+terms.Context+"'"
		}
		return 0, nil, fault.Conflict("Request of '%s' lapsed: it was for %s, and there is %s now. Review that and approve it: this asks anew", stored.AskedBy, was, is).With("request_lapsed")
	case asker.shared(actor) != "":
		return 0, nil, fault.Conflict("Another person must confirm what '%s' asked for: the holder of the token '%s' has had the secrets of both '%s' and '%s'",
			stored.AskedBy, asker.shared(actor), stored.AskedBy, actor.name).With("other_person_required").Carrying(map[string]any{"confirmation": stored.shown(now)})
	case !maps.Equal(stored.Options, terms.Options):
		return 0, nil, fault.Conflict("Options differ from the request of '%s': %s. Approve with the same options, or reject it and ask anew", stored.AskedBy, difference(stored.Options, terms.Options)).With("request_differs").Carrying(map[string]any{"confirmation": stored.shown(now)})
	}
	confirmed := *stored
	confirmed.ConfirmedBy = actor.name
	if terms.Notes != "" {
		confirmed.Notes = terms.Notes
	}
	return Carry, &confirmed, nil
}

// Lapsed says whether an error of Judge means that the stored request must be dropped.
func Lapsed(err error) bool { return err != nil && fault.Of(err).Code == "request_lapsed" }

// difference names the options that differ, "allow_sdist was true and is false", sorted.
func difference(asked, now map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if asked[name] != now[name] {
			all = append(all, fmt.Sprintf("%s was %q and is %q", name, asked[name], now[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, known := asked[name]; !known {
			all = append(all, fmt.Sprintf("%s was not given and is %q", name, now[name]))
		}
	}
	return strings.Join(all, ", ")
}

// person is somebody who may ask or confirm.
type person struct {
	name    string
	lineage string // names, joined by commas
}

// personOf is the person behind a request. Only the gateway says that there is one: it sends a role with the name of a token. A service's
// own work, a pack and a request without a name are nobody, so that they can neither ask nor confirm.
func personOf(ctx context.Context) (person, error) {
	from := origin.Of(ctx)
	prefix, _, prefixed := strings.Cut(from.Actor, ":")
	switch {
	case !from.Role.Known(), from.Actor == "", from.Actor == "system", from.Actor == "anonymous",
		prefixed && (prefix == "service" || prefix == "pack"):
		return person{}, fault.Denied("Approval needs a person, and '%s' is none: call with the token of a person", from.Actor).With("person_required")
	}
	return person{from.Actor, from.Lineage}, nil
}

// is says whether both are the same name. Case doesn't count, so that "Alice" can't confirm what "alice" asked for.
func (p person) is(other person) bool { return strings.EqualFold(p.name, other.name) }

// firstToken is the name of the token that init makes. Its holder has the host, so may change the setting itself: that it made two tokens
// says nothing about whether they are in one hand.
const firstToken = "init"

// shared is the name of a token whose holder can act as both: the same name, one that made the other's token or rotated it, or one that made
// both. It is "" if there is none, so that both can be two persons. The attack is an admin who makes a second token for himself, or two.
func (p person) shared(other person) string {
	for _, name := range p.holders() {
		if name == firstToken && !strings.EqualFold(name, p.name) && !strings.EqualFold(name, other.name) {
			continue // it made both
		}
		for _, match := range other.holders() {
			if strings.EqualFold(name, match) {
				return name
			}
		}
	}
	return ""
}

// holders are the names of the tokens whose holders know the secret of p's: itself, and its lineage.
func (p person) holders() []string {
	names := []string{p.name}
	for name := range strings.SplitSeq(p.lineage, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Confirmation is what answers show of an open request.
type Confirmation struct {
	Required  int               `json:"required"` // persons: 2
	AskedBy   string            `json:"asked_by"`
	AskedAt   time.Time         `json:"asked_at"`
	ExpiresAt time.Time         `json:"expires_at"` // from then on it can't be confirmed
	Digest    string            `json:"digest"`     // of the bytes that were asked for
	Options   map[string]string `json:"options,omitzero"`
	Notes     string            `json:"notes,omitzero"`
	WaitsFor  string            `json:"waits_for"` // a sentence
}

// Shown is what answers show of a request: nil unless it is open and an approval takes two persons.
func (a Approvals) Shown(r *Request, now time.Time) *Confirmation {
	if !a.Two() {
		return nil
	}
	return r.shown(now)
}

func (r *Request) shown(now time.Time) *Confirmation {
	if !r.Open(now) {
		return nil
	}
	return &Confirmation{
		Required: 2, AskedBy: r.AskedBy, AskedAt: r.AskedAt, ExpiresAt: r.ExpiresAt(), Digest: r.Digest, Options: r.Options, Notes: r.Notes,
		WaitsFor: fmt.Sprintf("another person than '%s' to approve the same", r.AskedBy),
	}
}

// StatusCode is the HTTP status of an answer to an approval that has this confirmation: 202 while it waits for another person, 200 if
// there is none.
func (c *Confirmation) StatusCode() int {
	if c == nil {
		return http.StatusOK
	}
	return http.StatusAccepted
}

// Audit is the audit log; *audit.Log is one.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// AuditRefusal returns the error of an approval, after it has written an entry of the category security if the error says that the actor is
// not a second person: somebody tries to decide alone. details say what of the pack he tried to approve. A failure of the audit log is joined
// to the error.
func AuditRefusal(ctx context.Context, log Audit, packID string, details map[string]any, err error) error {
	if err == nil {
		return nil
	}
	if code := fault.Of(err).Code; code != "other_person_required" && code != "person_required" {
		return err
	}
	return errors.Join(err, log.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Warning, Action: "confirmation_refused", OwnerPack: packID, Details: details,
		RejectionReason: fault.Of(err).Message,
	}))
}

// Details adds to the details of an audit entry who asked for what the entry is about. It changes details, and returns it. A nil request
// adds nothing.
func (r *Request) Details(details map[string]any) map[string]any {
	if r == nil {
		return details
	}
	details["requested_by"], details["requested_at"] = r.AskedBy, r.AskedAt
	if r.ConfirmedBy != "" {
		details["confirmed_by"] = r.ConfirmedBy
	}
	if len(r.Options) > 0 {
		details["requested_options"] = r.Options
	}
	return details
}
