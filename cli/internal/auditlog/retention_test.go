package auditlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

// retaining is a home whose sealer compresses after 2 days and removes after keep.
func retaining(t *testing.T, keep int) *home {
	t.Helper()
	h := newHome(t)
	h.compressDays, h.keepDays = 2, keep
	return h
}

// wait lets the sealer make one pass for each of the given minutes, and waits after each pass until the compression that it has begun is over.
func (h *home) wait(minutes int) error {
	h.t.Helper()
	for range minutes {
		h.now = h.now.Add(time.Minute)
		if _, err := h.sealer.pass(h.now); err != nil {
			return err
		}
		if p := h.sealer.retention.packing; p != nil { // as if the minute had passed
			for len(p.done) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	return nil
}

// names are the files of a day in the audit folder.
func (h *home) names(day string) string {
	h.t.Helper()
	entries, err := os.ReadDir(h.audit)
	h.check(err)
	var names []string
	for _, e := range entries {
		if strings.Contains(e.Name(), day) || strings.HasSuffix(e.Name(), ".new") {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// lines counts the whole lines of a category and day, as everybody reads them.
func (h *home) lines(category audit.Category, day string) (n int) {
	h.t.Helper()
	dir, err := auditfile.OpenDir(h.audit)
	h.check(err)
	defer dir.Close()
	number, _ := auditfile.ParseDay(day)
	f, err := dir.Open(auditfile.ID{Category: category, Day: number})
	h.check(err)
	defer f.Close()
	for lines := auditfile.NewLines(f, 0); ; n++ {
		if _, err := lines.Next(); err != nil {
			return n
		}
	}
}

func (h *home) wantIntact(what string) {
	h.t.Helper()
	report := h.verify(func(o *Options) { o.Now = h.now })
	if !report.OK {
		h.t.Errorf("%s: verify found %s", what, short(report.Findings))
	}
}

func TestOldDaysAreCompressedAndStayProven(t *testing.T) {
	h := retaining(t, 0)
	h.write("security_2026-01-20.jsonl", 0, 5000)
	h.write("network_2026-01-20.jsonl", 0, 3)
	h.write("security_2026-01-30.jsonl", 0, 10)
	h.start()
	h.seal()
	h.check(h.wait(30))
	if got := h.names("2026-01-20"); got != "network_2026-01-20.jsonl security_2026-01-20.jsonl" {
		t.Fatalf("after half an hour: got %s, want both files as they were", got)
	}
	h.check(h.wait(40))
	if got, want := h.names("2026-01"), "network_2026-01-20.jsonl.zst security_2026-01-20.jsonl.zst security_2026-01-30.jsonl"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if got := h.lines(audit.Security, "2026-01-20"); got != 5000 {
		t.Errorf("the compressed file has %d lines, want 5000", got)
	}
	h.wantIntact("compressed")
	h.stop()
	h.start()
	h.seal()
	h.check(h.wait(70))
	h.stop()
	h.wantIntact("after a new start")
	if out := h.out.String(); strings.Contains(out, "ERROR") || strings.Contains(out, "removed") {
		t.Errorf("got the log\n%s\nwant no failure, and nothing removed", out)
	}
	prover, err := OpenProver(h.audit, h.seals, []byte(h.public))
	h.check(err)
	defer prover.Close()
	proof, err := prover.Prove(Place{"security_2026-01-20.jsonl.zst", 4999})
	h.check(err)
	if _, _, err := proof.Verify([]byte(h.public)); err != nil {
		t.Errorf("the proof of a compressed line: %v", err)
	}
}

// A compressed file that was changed, or cut, must be named like any other.
func TestChangedCompressedFileIsNamed(t *testing.T) {
	h := retaining(t, 0)
	h.write("security_2026-01-20.jsonl", 0, 50)
	h.start()
	h.seal()
	h.check(h.wait(70))
	h.stop()
	path := h.path("security_2026-01-20.jsonl.zst")
	for what, lines := range map[string][2]int{"the end is missing": {0, 40}, "lines were added": {0, 60}, "another file": {100, 150}} {
		var text strings.Builder
		for n := lines[0]; n < lines[1]; n++ {
			text.WriteString(entry(n) + "\n")
		}
		f, err := os.Create(path)
		h.check(err)
		h.check(auditfile.Compress(f, strings.NewReader(text.String())))
		h.check(f.Close())
		if report := h.verify(func(o *Options) { o.Now = h.now }); report.OK {
			t.Errorf("%s: verify found nothing, want the compressed file named", what)
		}
	}
}

func TestRemovedDaysAreRecorded(t *testing.T) {
	h := retaining(t, 10)
	h.write("security_2026-01-01.jsonl", 0, 100)
	h.write("security_2026-01-25.jsonl", 0, 100)
	h.write("network_2026-01-02.jsonl", 0, 10)
	h.start()
	h.seal()
	h.check(h.wait(70))
	h.seal()
	h.stop()
	if got, want := h.names("2026-01"), "security_2026-01-25.jsonl.zst"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	report := h.verify(func(o *Options) { o.Now = time.Now() })
	if !report.OK || !slices.ContainsFunc(report.Notes, func(f Finding) bool {
		return f.File == "security_2026-01-01.jsonl" && strings.Contains(f.Text, "RUMI_AUDIT_KEEP_DAYS")
	}) {
		t.Errorf("got findings %s, notes %v; want a note that the sealer removed the file", short(report.Findings), report.Notes)
	}
	system, err := filepath.Glob(filepath.Join(h.audit, "system_*.jsonl"))
	h.check(err)
	all := ""
	for _, name := range system {
		all += string(h.read(name))
	}
	if strings.Count(all, `"action":"audit_day_removed"`) != 2 || !strings.Contains(all, `"day":"2026-01-01"`) {
		t.Errorf("got the entries\n%s\nwant one for each day", all)
	}
	h.check(os.Remove(h.path("security_2026-01-25.jsonl.zst")))
	if report := h.verify(func(o *Options) { o.Now = time.Now() }); report.OK {
		t.Error("somebody else removed a file: verify found nothing, want it named")
	}
}

// What isn't sealed is neither compressed nor removed.
func TestUnsealedFilesStay(t *testing.T) {
	h := retaining(t, 3)
	h.start()
	h.seal()
	h.check(h.wait(70))
	h.write("security_2026-01-01.jsonl", 0, 10)
	known := &follower{part: part{"security_2026-01-01.jsonl", 1}, gone: false}
	if h.sealer.sealedWhole(known, 10) {
		t.Error("a file without seals counts as sealed")
	}
	h.seal()
	h.write("security_2026-01-01.jsonl", 10, 11)
	h.check(h.wait(2))
	if got := h.names("2026-01-01"); got != "security_2026-01-01.jsonl" {
		t.Errorf("got %s, want the file, which was appended to a moment ago", got)
	}
	h.stop()
}

// A line that comes days late, by a process that was stopped for as long, is in the log and sealed.
func TestLateLineAfterCompression(t *testing.T) {
	h := retaining(t, 0)
	h.write("security_2026-01-20.jsonl", 0, 20)
	h.start()
	h.seal()
	open, err := os.OpenFile(h.path("security_2026-01-20.jsonl"), os.O_WRONLY|os.O_APPEND, 0)
	h.check(err)
	defer open.Close()
	for h.names("2026-01-20") != "security_2026-01-20.jsonl.zst" {
		h.check(h.wait(1))
	}
	_, err = open.WriteString(entry(20) + "\n") // it had looked at the name before
	h.check(err)
	h.check(h.wait(3))
	if got := h.lines(audit.Security, "2026-01-20"); got != 21 {
		t.Errorf("got %d lines, want 21", got)
	}
	h.write("security_2026-01-20.jsonl", 21, 23) // it has noticed, and writes to the new file
	h.seal()
	h.check(h.wait(200))
	h.stop()
	if got := h.lines(audit.Security, "2026-01-20"); got != 23 {
		t.Errorf("got %d lines, want 23: compressed ones and late ones", got)
	}
	h.wantIntact("with late lines")
}

var errKilled = errors.New("killed")

// Whenever the sealer is killed, each line is there once, or its removal is recorded.
func TestKilledRetention(t *testing.T) {
	for _, step := range []string{"compressed", "plain removed", "audited", "recorded", "removed security_2026-01-01.jsonl", "removed network_2026-01-01.jsonl"} {
		t.Run(step, func(t *testing.T) {
			h := retaining(t, 20)
			h.write("security_2026-01-01.jsonl", 0, 10)
			h.write("network_2026-01-01.jsonl", 0, 10)
			h.write("security_2026-01-20.jsonl", 0, 30)
			h.start()
			h.seal()
			h.sealer.retention.step = func(at string) error {
				if at == step {
					return errKilled
				}
				return nil
			}
			if err := h.wait(200); !errors.Is(err, errKilled) {
				t.Fatalf("the step %q never came: %v", step, err)
			}
			h.stop()
			h.wantIntact("after the kill")
			if got := h.lines(audit.Security, "2026-01-20"); got != 30 {
				t.Errorf("after the kill: got %d lines, want 30", got)
			}
			h.start()
			h.seal()
			h.check(h.wait(200))
			h.stop()
			if got, want := h.names("2026-01"), "security_2026-01-20.jsonl.zst"; got != want {
				t.Errorf("at the end: got %s, want %s", got, want)
			}
			if got := h.lines(audit.Security, "2026-01-20"); got != 30 {
				t.Errorf("at the end: got %d lines, want 30", got)
			}
			h.wantIntact(fmt.Sprintf("at the end, after a kill at %q", step))
		})
	}
}
