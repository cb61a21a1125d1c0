package confirm_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
)

var (
	noon  = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	terms = confirm.Terms{Digest: "sha256:aa", Options: map[string]string{"allow_sdist": "false"}, Notes: "please"}
)

// as is a request of a person.
func as(t *testing.T, name, lineage string) context.Context {
	return origin.With(t.Context(), origin.Origin{RequestID: "r", Actor: name, Role: access.Operator, Lineage: lineage})
}

// Who may confirm whose request: one row for each relation of two tokens, in both directions.
func TestWhoMayConfirm(t *testing.T) {
	const (
		carried = ""
		waits   = "waits"
		refused = "other_person_required"
		nobody  = "person_required"
	)
	for _, c := range []struct {
		about                  string
		asker, askerLineage    string
		confirmer, confLineage string
		want                   string
	}{
		{"two tokens that init made", "alice", "init", "bob", "init", carried},
		{"two tokens without a lineage", "alice", "", "bob", "", carried},
		{"the same token", "alice", "init", "alice", "init", waits},
		{"the same name in other letters", "alice", "init", "Alice", "init", waits},
		{"a token that the asker made", "alice", "init", "alice-2", "alice,init", refused},
		{"the token that made the asker's", "alice-2", "alice,init", "alice", "init", refused},
		{"a token of a token of the asker", "alice", "init", "alice-3", "alice-2,alice,init", refused},
		{"two tokens of one admin", "t1", "alice,init", "t2", "alice,init", refused},
		{"two tokens of different admins", "t1", "alice,init", "t2", "bob,init", carried},
		{"tokens of tokens of one admin", "t1", "x,alice,init", "t2", "y,alice,init", refused},
		{"two who have signed in, without tokens", "alice@example.test", "", "bob@example.test", "", carried},
		{"a token that an admin rotated, and the admin's", "bob", "alice,init", "alice", "init", refused},
		{"init and a token that init made", "init", "", "alice", "init", refused},
		{"a token that init made, and init", "alice", "init", "init", "", refused},
		{"a lineage in other letters", "alice", "init", "bob", "Alice,init", refused},
		{"a lineage with spaces", "alice", "init", "bob", "init, alice", refused},
		{"a name that is a part of a lineage's name", "alice", "init", "bob", "alice-2,init", carried},
		{"a service", "alice", "init", "service:approval", "", nobody},
		{"a pack", "alice", "init", "pack:demo", "", nobody},
		{"the suite itself", "alice", "init", "system", "", nobody},
		{"a request without a token", "alice", "init", "anonymous", "", nobody},
		{"a request without a name", "alice", "init", "", "", nobody},
	} {
		t.Run(c.about, func(t *testing.T) {
			two := confirm.Approvals(2)
			step, request, err := two.Judge(as(t, c.asker, c.askerLineage), nil, terms, noon)
			if err != nil || step != confirm.Ask {
				t.Fatalf("the asker: got step %d, %v; want Ask", step, err)
			}
			if c.want == nobody { // it can't ask either
				if _, _, err := two.Judge(as(t, c.confirmer, c.confLineage), nil, terms, noon); fault.Of(err).Code != nobody {
					t.Errorf("asks: got %v, want %s", err, nobody)
				}
			}
			step, confirmed, err := two.Judge(as(t, c.confirmer, c.confLineage), request, terms, noon.Add(time.Minute))
			switch c.want {
			case carried:
				if err != nil || step != confirm.Carry || confirmed.AskedBy != c.asker || confirmed.ConfirmedBy != c.confirmer || confirmed.Requester() != c.asker {
					t.Errorf("got step %d, %+v, %v; want Carry, asked by %s and confirmed by %s", step, confirmed, err, c.asker, c.confirmer)
				}
			case waits:
				if err != nil || step != confirm.Wait || !reflect.DeepEqual(confirmed, request) {
					t.Errorf("got step %d, %+v, %v; want Wait and the same request", step, confirmed, err)
				}
			default:
				if err == nil || fault.Of(err).Code != c.want || step != 0 || confirmed != nil {
					t.Errorf("got step %d, %+v, %v; want %s", step, confirmed, err, c.want)
				}
			}
			if !request.Open(noon.Add(time.Minute)) {
				t.Error("the stored request isn't open any more, want it unchanged")
			}
		})
	}
}

// The role says that a person stands behind a name: without one nobody does, whatever the name.
func TestNobodyWithoutARole(t *testing.T) {
	for _, role := range []access.Role{"", "root"} {
		ctx := origin.With(t.Context(), origin.Origin{RequestID: "r", Actor: "alice", Role: role})
		if _, _, err := confirm.Approvals(2).Judge(ctx, nil, terms, noon); !fault.Is(err, fault.KindDenied) {
			t.Errorf("role %q: got %v, want a denied fault", role, err)
		}
	}
	if _, _, err := confirm.Approvals(2).Judge(t.Context(), nil, terms, noon); !fault.Is(err, fault.KindDenied) {
		t.Errorf("no request: got %v, want a denied fault", err)
	}
}

func TestTermsMustBeTheSame(t *testing.T) {
	with := func(change func(*confirm.Terms)) confirm.Terms {
		other := terms
		other.Options = map[string]string{"allow_sdist": "false"}
		change(&other)
		return other
	}
	for about, c := range map[string]struct {
		terms        confirm.Terms
		after        time.Duration
		self, others string // the code, or the step's name
	}{
		"the same":                  {with(func(*confirm.Terms) {}), time.Hour, "Wait", "Carry"},
		"just in time":              {with(func(*confirm.Terms) {}), confirm.Lifetime - time.Microsecond, "Wait", "Carry"},
		"too late":                  {with(func(*confirm.Terms) {}), confirm.Lifetime, "Ask", "Ask"},
		"other notes":               {with(func(t *confirm.Terms) { t.Notes = "fine" }), time.Hour, "Wait", "Carry"},
		"other bytes":               {with(func(t *confirm.Terms) { t.Digest = "sha256:bb" }), time.Hour, "Ask", "request_lapsed"},
		"another parent":            {with(func(t *confirm.Terms) { t.Context = "github:b/p" }), time.Hour, "Ask", "request_lapsed"},
		"another option":            {with(func(t *confirm.Terms) { t.Options["allow_sdist"] = "true" }), time.Hour, "Ask", "request_differs"},
		"one option more":           {with(func(t *confirm.Terms) { t.Options["index_url"] = "" }), time.Hour, "Ask", "request_differs"},
		"one option less":           {with(func(t *confirm.Terms) { t.Options = nil }), time.Hour, "Ask", "request_differs"},
		"other bytes and options":   {with(func(t *confirm.Terms) { t.Digest, t.Options = "sha256:bb", nil }), time.Hour, "Ask", "request_lapsed"},
		"other bytes, but too late": {with(func(t *confirm.Terms) { t.Digest = "sha256:bb" }), 2 * confirm.Lifetime, "Ask", "Ask"},
	} {
		_, request, err := confirm.Approvals(2).Judge(as(t, "alice", "init"), nil, terms, noon)
		if err != nil {
			t.Fatal(err)
		}
		for actor, want := range map[string]string{"alice": c.self, "bob": c.others} {
			step, got, err := confirm.Approvals(2).Judge(as(t, actor, "init"), request, c.terms, noon.Add(c.after))
			outcome := map[confirm.Step]string{confirm.Ask: "Ask", confirm.Wait: "Wait", confirm.Carry: "Carry"}[step]
			if err != nil {
				outcome = fault.Of(err).Code
			}
			if outcome != want || confirm.Lapsed(err) != (want == "request_lapsed") {
				t.Errorf("%s, %s: got %s, want %s", about, actor, outcome, want)
			}
			if want == "Ask" && (got.AskedBy != actor || got.Digest != c.terms.Digest) {
				t.Errorf("%s, %s: the new request is %+v, want it of %s and for %s", about, actor, got, actor, c.terms.Digest)
			}
			if want == "Carry" && got.Notes != c.terms.Notes {
				t.Errorf("%s: notes %q, want those of the confirmation, %q", about, got.Notes, c.terms.Notes)
			}
			if want == "request_differs" && !strings.Contains(err.Error(), "allow_sdist") && !strings.Contains(err.Error(), "index_url") {
				t.Errorf("%s: %v, want the option that differs", about, err)
			}
		}
	}
}

// With one person nothing is asked for, whatever was stored while it took two.
func TestOnePersonIsEnough(t *testing.T) {
	_, request, err := confirm.Approvals(2).Judge(as(t, "alice", "init"), nil, terms, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []confirm.Approvals{0, 1} {
		step, got, err := one.Judge(t.Context(), request, terms, noon)
		if step != confirm.Carry || got != nil || err != nil {
			t.Errorf("%d: got step %d, %+v, %v; want Carry without a request", one, step, got, err)
		}
		if shown := one.Shown(request, noon); shown != nil {
			t.Errorf("%d: shown %+v, want nothing", one, shown)
		}
	}
	shown := confirm.Approvals(2).Shown(request, noon)
	if shown == nil || shown.Required != 2 || shown.AskedBy != "alice" || !shown.ExpiresAt.Equal(noon.Add(confirm.Lifetime)) || shown.StatusCode() != 202 {
		t.Errorf("shown %+v, want alice's request, which expires after %v", shown, confirm.Lifetime)
	}
	if shown := confirm.Approvals(2).Shown(request, noon.Add(confirm.Lifetime)); shown != nil || shown.StatusCode() != 200 {
		t.Errorf("too late: shown %+v, want nothing", shown)
	}
}

func TestSetting(t *testing.T) {
	for text, want := range map[string]confirm.Approvals{"1": 1, "2": 2} {
		var a confirm.Approvals
		if err := a.UnmarshalText([]byte(text)); err != nil || a != want || a.Two() != (want == 2) {
			t.Errorf("%q: got %d, %v; want %d", text, a, err, want)
		}
	}
	for _, text := range []string{"0", "3", "two", "", "02", "2 "} {
		a := confirm.Approvals(1)
		if err := a.UnmarshalText([]byte(text)); err == nil || a != 1 || !strings.Contains(err.Error(), "want 1") {
			t.Errorf("%q: got %d, %v; want an error that says what is wanted", text, a, err)
		}
	}
}
