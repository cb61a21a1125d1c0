package auditlog

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func (h *home) prover() *Prover {
	h.t.Helper()
	p, err := OpenProver(h.audit, h.seals, []byte(h.public))
	h.check(err)
	h.t.Cleanup(p.Close)
	return p
}

// Every line can be proven, from what one process prints and another reads, without the home.
func TestEveryLineCanBeProven(t *testing.T) {
	h := sealed100(t)
	h.check(os.Rename(h.path(testFile), h.path(testFile+".1")))
	h.write(testFile, 100, 130)
	h.seal()
	h.stop()
	p := h.prover()
	for _, c := range []struct {
		file     string
		from, to int
	}{{testFile + ".1", 0, 100}, {testFile, 100, 130}} {
		for n := c.from; n < c.to; n++ {
			made, err := p.Prove(Place{c.file, uint64(n - c.from + 1)})
			h.check(err)
			data, err := json.Marshal(made)
			h.check(err)
			read, _, err := ParseProof(data)
			h.check(err)
			if read.Entry != entry(n) {
				t.Fatalf("proves %s, want %s", read.Entry, entry(n))
			}
			if _, _, err := read.Verify([]byte(h.public)); err != nil {
				t.Errorf("line %d: %v", n, err)
			}
		}
	}
	places, err := p.FindRequest("R42")
	h.check(err)
	if want := []Place{{testFile + ".1", 43}}; !slices.Equal(places, want) {
		t.Errorf("request R42 is at %v, want %v", places, want)
	}
}

// A proof of which anything was changed proves nothing.
func TestProofsCannotBeForged(t *testing.T) {
	h := sealed100(t)
	h.stop()
	proven, err := h.prover().Prove(Place{testFile, 42})
	h.check(err)
	_, otherKey, err := NewKey(strings.Repeat("0a", 16))
	h.check(err)
	if _, _, err := proven.Verify([]byte(otherKey)); err == nil {
		t.Error("another key verifies it, want an error")
	}
	record := proven.Record
	for name, forge := range map[string]func(p *Proof){
		"entry":      func(p *Proof) { p.Entry = strings.Replace(p.Entry, "R41", "R40", 1) },
		"line":       func(p *Proof) { p.Line++ },
		"file":       func(p *Proof) { p.File = other },
		"part":       func(p *Proof) { p.Part++ },
		"line path":  func(p *Proof) { p.LinePath = slices.Clone(p.LinePath[1:]) },
		"record":     func(p *Proof) { p.Record = strings.Replace(record, `"inode":`, `"inode":1`, 1) },
		"no path":    func(p *Proof) { p.RecordPath = path{} },
		"checkpoint": func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n3\n", "\n4\n", 1) },
	} {
		forged := *proven
		if forge(&forged); fmt.Sprint(forged) == fmt.Sprint(*proven) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, _, err := forged.Verify([]byte(h.public)); err == nil {
			t.Errorf("a proof with another %s verifies, want an error", name)
		}
	}
	if _, _, err := proven.Verify([]byte(h.public)); err != nil {
		t.Errorf("the proof itself: %v", err)
	}
}

func TestProveWhatIsNotSealed(t *testing.T) {
	h := sealed100(t)
	h.stop()
	h.write(testFile, 100, 101)
	p := h.prover()
	for _, c := range []struct{ place, want string }{
		{testFile + ":101", "is not sealed"},
		{testFile + ":102", "has 101 whole lines"},
		{"missing.jsonl:1", "no such file"},
	} {
		at, err := ParsePlace("user_data/audit/" + c.place)
		h.check(err)
		if _, err := p.Prove(at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.place, err, c.want)
		}
	}
	for _, text := range []string{"", "file", "file:", "file:0", "file:-1", ":1", "file:x"} {
		if _, err := ParsePlace(text); err == nil {
			t.Errorf("ParsePlace(%q) = nil, want an error", text)
		}
	}
}

// Between any two checkpoints of one log there is a proof, and none between those of two logs.
func TestExtensions(t *testing.T) {
	h := newHome(t)
	h.start()
	var kept [][]byte
	for n := range 9 {
		h.write(testFile, n, n+1)
		h.seal()
		kept = append(kept, h.prover().Newest())
	}
	h.stop()
	p := h.prover()
	for n, earlier := range kept {
		made, err := p.Extends(earlier, []byte(h.public))
		h.check(err)
		data, err := json.Marshal(made)
		h.check(err)
		_, read, err := ParseProof(data)
		h.check(err)
		from, to, err := read.Verify([]byte(h.public))
		if err != nil || from.Size != uint64(n+1) || to.Size != 9 {
			t.Errorf("from %d to %d: %v, want no error", from.Size, to.Size, err)
		}
	}
	h.check(os.RemoveAll(h.seals))
	h.check(os.Mkdir(h.seals, 0o750))
	h.start()
	h.seal()
	h.stop()
	if _, err := h.prover().Extends(kept[8], []byte(h.public)); err == nil || !strings.Contains(err.Error(), "an older log was put back") {
		t.Errorf("a new log in place of the old one: got %v, want that it is older", err)
	}
}
