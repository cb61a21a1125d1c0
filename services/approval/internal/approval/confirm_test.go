package approval

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
)

// person is the context of a call by the holder of a token that init made.
func person(name string) context.Context {
	return origin.With(context.Background(), origin.Origin{RequestID: "r", Actor: name, Role: access.Operator, Lineage: "init"})
}

// replicas are two services on one database and one home, where an approval takes two persons.
func replicas(t *testing.T, open func() *libstore.DB) (home string, both [2]*Service) {
	t.Helper()
	home = t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	for i := range both {
		both[i] = openOn(t, home, open())
		both[i].Approvals = 2
	}
	check(t, both[0].Refresh(t.Context()))
	return home, both
}

// audited are the audit entries of pack p with one action.
func audited(t *testing.T, home, action string) (all []auditedEntry) {
	t.Helper()
	for line := range strings.Lines(entries(t, home)) {
		var e auditedEntry
		check(t, json.Unmarshal([]byte(line), &e))
		if e.Action == action {
			all = append(all, e)
		}
	}
	return all
}

type auditedEntry struct {
	Action  string `json:"action"`
	Actor   string `json:"actor"`
	Details struct {
		Digest      string `json:"digest"`
		RequestedBy string `json:"requested_by"`
		ConfirmedBy string `json:"confirmed_by"`
	} `json:"details"`
}

func TestAskedHereConfirmedThere(t *testing.T) {
	storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
		home, both := replicas(t, open)
		r, err := both[0].Approve(person("alice"), "p", "")
		if err != nil || r.Status != pack.StatusPending || both[0].Confirmation(r) == nil || r.Digest != "" {
			t.Fatalf("alice approves: got %+v, %v; want it pending, with her request", r, err)
		}
		if stored, err := os.ReadDir(filepath.Join(home, "approved/manifests")); len(stored) != 0 {
			t.Errorf("stored %v, %v; want no bytes of a pack that nobody has approved", stored, err)
		}
		r, err = both[1].Approve(person("bob"), "p", "")
		if err != nil || r.Status != pack.StatusApproved || r.Request.Requester() != "alice" || r.Request.ConfirmedBy != "bob" {
			t.Fatalf("bob approves: got %+v, %v; want it approved, asked by alice and confirmed by bob", r, err)
		}
		wholeTree(t, both[1], r.Digest)
	})
}

// Between asking and confirming the bytes change, and no scan has noticed: the confirmation does, and approves neither.
func TestConfirmationIsOfTheSameBytes(t *testing.T) {
	storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
		home, both := replicas(t, open)
		asked, err := both[0].Approve(person("alice"), "p", "")
		check(t, err)
		write(t, home, "more", "evil")
		r, err := both[1].Approve(person("bob"), "p", "")
		if f := fault.Of(err); f.Code != "request_lapsed" || !strings.Contains(f.Message, asked.Request.Digest) {
			t.Fatalf("bob confirms: got %+v, %v; want request_lapsed with the digest that alice asked for", r, err)
		}
		r, err = both[0].Records.Get(t.Context(), "p")
		if err != nil || r.Status != pack.StatusPending || r.Request != nil {
			t.Errorf("got %+v, %v; want it pending, without a request", r, err)
		}
		if lapsed := audited(t, home, "pack_approval_lapsed"); len(lapsed) != 1 || lapsed[0].Details.RequestedBy != "alice" {
			t.Errorf("audited %+v, want one pack_approval_lapsed of alice's request", lapsed)
		}
	})
}

// Many persons approve at once, on two replicas, each twice, while the pack is modified and rejected: at any time what is approved was asked
// for by one and confirmed by another, and there is one approval for each request that was carried out.
func TestConfirmationsAtOnce(t *testing.T) {
	storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
		home, both := replicas(t, open)
		for round := range 8 {
			var all sync.WaitGroup
			people := []string{"alice", "bob", "carol", "dave"}
			if round%4 == 3 {
				people = []string{"alice"} // alone, on both replicas
			}
			for i, name := range people {
				for _, s := range []*Service{both[i%2], both[(i+1)%2]} {
					all.Go(func() {
						if _, err := s.Approve(person(name), "p", ""); err != nil {
							t.Errorf("round %d, %s: got %v, want no error", round, name, err)
						}
					})
				}
			}
			all.Wait()
			r, err := both[0].Records.Get(t.Context(), "p")
			check(t, err)
			if len(people) == 1 {
				if r.Status.Executable() {
					t.Fatalf("round %d: alice alone has approved %+v, want it not approved", round, r)
				}
			} else if !r.Status.Executable() || r.Request.Requester() == "" || r.Request.AskedBy == r.Request.ConfirmedBy {
				t.Fatalf("round %d: got %+v, %+v; want it approved by two", round, r, r.Request)
			}
			if _, err := both[round%2].Reject(person("erin"), "p", "next round"); err != nil {
				t.Fatal(err)
			}
		}
		requested, approved := audited(t, home, "pack_approval_requested"), audited(t, home, "pack_approved")
		if len(approved) != 6 || len(requested) != 8 {
			t.Errorf("audited %d requests and %d approvals in 8 rounds, 6 of them with several persons; want 8 and 6", len(requested), len(approved))
		}
		for _, e := range approved {
			if e.Details.RequestedBy == "" || e.Details.RequestedBy == e.Actor || e.Details.ConfirmedBy != e.Actor {
				t.Errorf("audited %+v, want two persons", e)
			}
		}
	})
}

// A gate that is held closed, because a modification could not be recorded, isn't opened by one person, even though its record says approved.
func TestHeldGateTakesTwo(t *testing.T) {
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	s := open(t, home)
	s.Approvals = 2
	for _, name := range []string{"alice", "bob"} {
		_, err := s.Approve(person(name), "p", "")
		check(t, err)
	}
	s.gates.holdClosed(t.Context(), "p", "its files are not what was approved")
	if _, err := s.Approve(person("alice"), "p", ""); err != nil || s.MayRun("p") {
		t.Fatalf("alice alone: got %v, may run %v; want it held", err, s.MayRun("p"))
	}
	if _, err := s.Approve(person("bob"), "p", ""); err != nil || !s.MayRun("p") {
		t.Fatalf("bob confirms: got %v, may run %v; want it open", err, s.MayRun("p"))
	}
}

// A process that is killed at any step of asking or confirming leaves the state before or after it: never an approval of one person, never a
// request or an approval without its audit entry.
func TestCrashOfTwoPersons(t *testing.T) {
	for verb, steps := range map[string]int{"ask": 3, "confirm": 8} {
		t.Run(verb, func(t *testing.T) {
			for step := 0; crashOfTwo(t, verb, step); step++ {
				if step > steps {
					t.Fatalf("killed at step %d, want at most %d steps", step, steps)
				}
			}
		})
	}
}

func crashOfTwo(t *testing.T, verb string, step int) (killed bool) {
	t.Helper()
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	s := open(t, home)
	s.Approvals = 2
	if verb == "confirm" {
		_, err := s.Approve(person("alice"), "p", "")
		check(t, err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashing$")
	cmd.Env = append(os.Environ(), crashHome+"="+home, crashVerb+"="+verb, fmt.Sprintf("%s=%d", crashStep, step))
	if output, err := cmd.CombinedOutput(); err != nil {
		status, ok := errors.AsType[*exec.ExitError](err)
		if !ok || !status.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("the child ended with %v, want by a signal or without an error:\n%s", err, output)
		}
		killed = true
	}
	s = open(t, home)
	s.Approvals = 2
	r, err := s.Records.Get(t.Context(), "p")
	check(t, err)
	history, err := s.Records.History(t.Context(), "p")
	check(t, err)
	for _, e := range history {
		if len(audited(t, home, "pack_"+e.Action)) == 0 {
			t.Errorf("step %d: %s is not in the audit log, want it there", step, e.Action)
		}
	}
	asked := slices.ContainsFunc(history, func(e record.Event) bool { return e.Action == actionRequested })
	switch {
	case r.Status == pack.StatusApproved && verb == "confirm" && r.Request.Requester() == "alice":
		wholeTree(t, s, r.Digest)
	case r.Status == pack.StatusPending && (r.Request != nil) == asked && (asked || killed):
	default:
		t.Errorf("step %d: got %+v, request %+v; want the state before or after", step, r, r.Request)
	}
	// The next process goes on from there: two persons are enough in any case.
	for _, name := range []string{"alice", "bob"} {
		_, err = s.Approve(person(name), "p", "")
		check(t, err)
	}
	if !s.MayRun("p") {
		t.Errorf("step %d: alice and bob approve, and it may not run; want it open", step)
	}
	return killed
}
