package access_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
)

// approveX is "approve only pack x".
var approveX = access.Scopes{{Verbs: []access.Pattern{"packs.approve"}, Packs: []string{"x"}}}

func TestScopesAllow(t *testing.T) {
	mixed := access.Scopes{{Verbs: []access.Pattern{"packs.*", "network.grant"}, Packs: []string{"x", "y"}}, {Verbs: []access.Pattern{"*.read"}}}
	for _, c := range []struct {
		scopes access.Scopes
		verb   access.Verb
		pack   string
		want   bool
	}{
		{nil, access.ApprovePacks, "x", true},
		{nil, access.ReadHealth, "", true},
		{approveX, access.ApprovePacks, "x", true},
		{approveX, access.ApprovePacks, "y", false},
		{approveX, access.ApprovePacks, "x__child", false},
		{approveX, access.ApprovePacks, "X", false},
		{approveX, access.ApprovePacks, "", false},
		{approveX, access.RejectPacks, "x", false},
		{approveX, access.ReadPacks, "x", false},
		{approveX, access.ReadSelf, "", true},
		{mixed, access.ApprovePacks, "y", true},
		{mixed, access.ApplyPacks, "", false},
		{mixed, access.GrantNetwork, "x", true},
		{mixed, access.RevokeNetwork, "x", false},
		{mixed, access.ReadSecrets, "", true},
		{mixed, access.ReadContainers, "z", true},
		{access.Scopes{{Verbs: []access.Pattern{"*"}}}, access.CreateTokens, "", true},
		{access.Scopes{{Verbs: []access.Pattern{"*"}, Packs: []string{"x"}}}, access.DeleteContainers, "x", true},
		{access.Scopes{{Verbs: []access.Pattern{"*"}, Packs: []string{"x"}}}, access.ReadPacks, "", false},
		{access.Scopes{{}}, access.ReadPacks, "x", false},
	} {
		if got := c.scopes.Allow(c.verb, c.pack); got != c.want {
			t.Errorf("%q allow %s on %q: got %v, want %v", c.scopes, c.verb, c.pack, got, c.want)
		}
		if got := c.scopes.Mention(c.verb); c.want && !got {
			t.Errorf("%q allow %s on %q, but don't mention it", c.scopes, c.verb, c.pack)
		}
	}
}

func TestScopesPacks(t *testing.T) {
	some := access.Scopes{{Verbs: []access.Pattern{"*.read"}, Packs: []string{"y", "x"}}, {Verbs: []access.Pattern{"audit.read"}, Packs: []string{"x", "z"}}, {Verbs: []access.Pattern{"packs.*"}}}
	for _, c := range []struct {
		scopes access.Scopes
		want   string
		all    bool
	}{
		{nil, "", true},
		{access.Scopes{{Verbs: []access.Pattern{"*"}}}, "", true},
		{some, "x y z", false},
		{approveX, "", false},
	} {
		if packs, all := c.scopes.Packs(access.ReadAudit); strings.Join(packs, " ") != c.want || all != c.all {
			t.Errorf("%q have audit.read on: got %q, all %v; want %q, %v", c.scopes, packs, all, c.want, c.all)
		}
	}
}

func TestScopesCover(t *testing.T) {
	scope := func(verbs string, packs ...string) access.Scope {
		var s access.Scope
		for v := range strings.FieldsSeq(verbs) {
			s.Verbs = append(s.Verbs, access.Pattern(v))
		}
		s.Packs = packs
		return s
	}
	for _, c := range []struct {
		mine, other access.Scopes
		want        bool
	}{
		{nil, nil, true},
		{nil, approveX, true},
		{approveX, nil, false},
		{approveX, approveX, true},
		{approveX, access.Scopes{scope("packs.approve")}, false},
		{approveX, access.Scopes{scope("packs.approve", "x", "y")}, false},
		{approveX, access.Scopes{scope("packs.*", "x")}, false},
		{access.Scopes{scope("packs.*", "x")}, approveX, true},
		{access.Scopes{scope("packs.*")}, approveX, true},
		{access.Scopes{scope("*.approve")}, access.Scopes{scope("packs.approve pip.approve", "x")}, true},
		{access.Scopes{scope("*.approve")}, access.Scopes{scope("packs.*", "x")}, false},
		{access.Scopes{scope("packs.*")}, access.Scopes{scope("*")}, false},
		{access.Scopes{scope("*.*")}, access.Scopes{scope("packs.*")}, true},
		// Verbs of one scope and packs of another don't add up.
		{access.Scopes{scope("packs.approve", "x"), scope("packs.reject", "y")}, access.Scopes{scope("packs.approve", "x"), scope("packs.reject", "y")}, true},
		{access.Scopes{scope("packs.approve", "x"), scope("packs.reject", "y")}, access.Scopes{scope("packs.approve packs.reject", "x", "y")}, false},
	} {
		if got := c.mine.Cover(c.other); got != c.want {
			t.Errorf("%q cover %q: got %v, want %v", c.mine, c.other, got, c.want)
		}
	}
}

func TestScopesCheck(t *testing.T) {
	for want, scopes := range map[string]access.Scopes{
		"scopes is empty: leave it out": {},
		"scopes[0]: verbs is missing":   {{}},
		"scopes[1]: packs is empty":     {{Verbs: []access.Pattern{"*"}}, {Verbs: []access.Pattern{"*"}, Packs: []string{}}},
		`has the verb "packs.sell"`:     {{Verbs: []access.Pattern{"packs.sell"}}},
		`has the verb "packs"`:          {{Verbs: []access.Pattern{"packs"}}},
		`has the verb ""`:               {{Verbs: []access.Pattern{""}}},
		`has the verb "packs.app*"`:     {{Verbs: []access.Pattern{"packs.app*"}}},
		"33 scopes are too many":        make(access.Scopes, 33),
	} {
		if err := scopes.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", scopes, err, want)
		}
	}
	unknown := access.Scopes{{Verbs: []access.Pattern{"packs.sell"}}}.Check()
	if _, ok := errors.AsType[*access.UnknownVerbError](unknown); !ok {
		t.Errorf("an unknown verb: got %v, want an UnknownVerbError", unknown)
	}
	for _, right := range []access.Scopes{nil, approveX, {{Verbs: []access.Pattern{"*", "*.read", "packs.*"}}}} {
		if err := right.Check(); err != nil {
			t.Errorf("%q: got %v, want no error", right, err)
		}
	}
}
