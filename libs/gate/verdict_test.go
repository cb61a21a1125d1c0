package gate

import (
	"context"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
)

func TestVerdicts(t *testing.T) {
	open, closed := State{Open: true, Status: "running"}, State{Status: "modified"}
	for name, c := range map[string]struct {
		state        State
		known, fresh bool
		reason       string
		check        string // "" for nil
		kind         fault.Kind
	}{
		"open":                      {open, true, true, "", "", 0},
		"closed":                    {closed, true, true, "Pack is not approved (status: modified)", "Pack 'p' is not approved (status: modified)", fault.KindConflict},
		"unknown":                   {State{}, false, true, "Pack is not known", "Pack 'p' is not approved (status: unknown)", fault.KindConflict},
		"closed, without a lease":   {closed, true, false, "Pack is not approved (status: modified)", "Service unavailable: approval", fault.KindUnavailable},
		"unknown, without a lease":  {State{}, false, false, "Pack is not known", "Service unavailable: approval", fault.KindUnavailable},
		"approved, without a lease": {State{Status: "approved"}, true, false, "Pack's approval can't be confirmed at the moment", "Service unavailable: approval", fault.KindUnavailable},
		"running, without a lease":  {State{Status: "running"}, true, false, "Pack's approval can't be confirmed at the moment", "Service unavailable: approval", fault.KindUnavailable},
		"open, but of no pack":      {open, false, true, "Pack is not known", "Pack 'p' is not approved (status: unknown)", fault.KindConflict},
	} {
		if got := Reason(c.state, c.known); got != c.reason {
			t.Errorf("%s: reason %q, want %q", name, got, c.reason)
		}
		err := Check("p", c.state, c.known, c.fresh)
		if (err == nil) != (c.check == "") {
			t.Errorf("%s: got %v, want %q", name, err, c.check)
		} else if err != nil && (fault.Of(err).Message != c.check || !fault.Is(err, c.kind)) {
			t.Errorf("%s: got %v of kind %v, want %q of kind %v", name, err, fault.Of(err).Kind, c.check, c.kind)
		}
	}
}

// memory is gates in which GetLatest may know more than Get.
type memory struct{ now, latest, fresh bool }

func (m memory) Get(string) (State, bool)                        { return State{}, m.now }
func (m memory) GetLatest(context.Context, string) (State, bool) { return State{}, m.latest }
func (m memory) Fresh() bool                                     { return m.fresh }

func TestMustKnow(t *testing.T) {
	for name, c := range map[string]struct {
		gates memory
		want  string // "" for nil
	}{
		"known":                    {memory{now: true, latest: true, fresh: true}, ""},
		"known before":             {memory{now: true}, ""},
		"known a moment later":     {memory{latest: true, fresh: true}, ""},
		"not known":                {memory{fresh: true}, "Pack not found"},
		"nobody can say, no lease": {memory{}, "Service unavailable: approval"},
	} {
		switch err := MustKnow(t.Context(), c.gates, "p"); {
		case c.want == "" && err == nil:
		case err == nil, fault.Of(err).Message != c.want:
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
