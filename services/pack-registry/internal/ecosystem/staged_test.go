package ecosystem

import (
	"context"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
)

func TestInspect(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/a/ecosystem.json", versioned("a", "i", "1"))
	h.write(t, "ecosystem/b/ecosystem.json", descriptor("b", "other"))
	h.write(t, "user_data/import/m/packs/a/ecosystem.json", versioned("a", "i", "2"))
	h.write(t, "user_data/import/m/packs/a/run.sh", "1234")
	check(t, os.Chmod(h.path("user_data/import/m/packs/a/run.sh"), 0o755))
	h.write(t, "user_data/import/m/packs/b/ecosystem.json", descriptor("b", "i"))
	h.write(t, "user_data/import/m/packs/c/backend/ecosystem.json", descriptor("c", "i"))
	id := h.stage(t, "m")
	st, err := h.eco.Inspect(t.Context(), id)
	check(t, err)
	if st.ID != id || len(st.Packs) != 3 || len(st.Details) != 3 {
		t.Fatalf("got %+v; want %s with 3 packs and 3 details", st, id)
	}
	a, b, c := st.Details[0], st.Details[1], st.Details[2]
	if a.Replaces == nil || a.Replaces.Descriptor.Version != "1" || a.Refused != "" || a.Descriptor.Version != "2" {
		t.Errorf("a is %+v; want version 2 that replaces version 1, not refused", a)
	}
	if len(a.Files) != 2 || a.Files[0].Path != "ecosystem.json" || a.Files[1].Path != "run.sh" || a.Files[1].Size != 4 || a.Files[1].Mode&0o111 == 0 {
		t.Errorf("the files of a are %+v; want ecosystem.json, and run.sh, executable, of 4 bytes", a.Files)
	}
	if !strings.HasPrefix(b.Refused, "pack_identity mismatch: ") {
		t.Errorf("b is %+v; want strings.HasPrefix(b.Refused, \"pack_identity mismatch: \")", b)
	}
	if c.Replaces != nil || c.Refused != "" || c.Descriptor.Base != "backend" || c.Files[0].Path != "backend/ecosystem.json" {
		t.Errorf("c is %+v; want it in backend, new, not refused", c)
	}
	// What it says is what happens.
	_, err = h.eco.Apply(t.Context(), id)
	if message(err) != b.Refused {
		t.Errorf("apply: %v; want %q", err, b.Refused)
	}

	check(t, h.eco.Discard(t.Context(), id))
	if got := h.names(t, "user_data/pack_staging"); got != ".lock" {
		t.Errorf("staging holds %s; want .lock", got)
	}
	want := "Staging not found: " + id
	if _, err := h.eco.Inspect(t.Context(), id); fault.Of(err).Message != want {
		t.Errorf("inspect: %v; want %q", err, want)
	}
	if err := h.eco.Discard(t.Context(), id); fault.Of(err).Message != want {
		t.Errorf("discard: %v; want %q", err, want)
	}
}

// A staging that is being applied is not pulled from under the apply.
func TestDiscardWaitsForApply(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p", "i"))
	id := h.stage(t, "p")
	discarded := make(chan error, 1)
	var once bool
	h.eco.step = func(string) {
		if !once {
			once = true
			go func() { discarded <- h.eco.Discard(context.Background(), id) }()
		}
	}
	applied, err := h.eco.Apply(t.Context(), id)
	if err != nil || !reflect.DeepEqual(applied.PackIDs, []string{"p"}) {
		t.Errorf("applied %+v, %v; want p", applied, err)
	}
	if err := <-discarded; fault.Of(err).Message != "Staging not found: "+id {
		t.Errorf("discard: %v; want %q", err, "Staging not found: "+id)
	}
}
