package auditlog

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func (h *home) verify(change func(*Options)) *Report {
	h.t.Helper()
	options := Options{Audit: h.audit, Log: h.seals, PublicKey: []byte(h.public), Now: time.Date(2026, 1, 31, 12, 0, 30, 0, time.UTC)}
	if change != nil {
		change(&options)
	}
	report, err := Verify(options)
	h.check(err)
	return report
}

// short is a list of findings without their texts.
func short(findings []Finding) string {
	var all []string
	for _, f := range findings {
		text := fmt.Sprintf("%s %s %d", f.Kind, f.File, f.Line)
		if f.Lines > 1 {
			text += fmt.Sprintf("+%d", f.Lines)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (h *home) path(file string) string   { return filepath.Join(h.audit, file) }
func (h *home) sealed(file string) string { return filepath.Join(h.seals, file) }

func (h *home) read(path string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(path)
	h.check(err)
	return data
}

// edit changes the lines of a file in place.
func (h *home) edit(path string, change func(lines []string) []string) {
	h.t.Helper()
	lines := strings.SplitAfter(string(h.read(path)), "\n")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	h.check(err)
	defer f.Close()
	_, err = f.WriteString(strings.Join(change(lines[:len(lines)-1]), ""))
	h.check(err)
}

// flip flips a bit of a file.
func (h *home) flip(path string, offset int) {
	h.t.Helper()
	data := h.read(path)
	data[(offset+len(data))%len(data)] ^= 1
	h.check(os.WriteFile(path, data, 0o640))
}

const other = "network_2026-01-31.jsonl"

// lineAt is the offset of a line, from 0, of entries 0, 1, ….
func lineAt(n int) (offset int) {
	for i := range n {
		offset += len(entry(i)) + 1
	}
	return offset
}

// manipulations are what can be done to the files of 100 sealed lines, and how it must be named.
var manipulations = map[string]struct {
	do            func(h *home)
	findings      string
	notes         string
	noticed       string // what a sealer that runs says, if it isn't the same: the kinds
	removedBefore string
}{
	"nothing": {do: func(*home) {}},
	"a bit of the first line": {
		do:       func(h *home) { h.flip(h.path(testFile), 5) },
		findings: "changed " + testFile + " 1",
	},
	"a bit of a line in the middle": {
		do:       func(h *home) { h.flip(h.path(testFile), lineAt(41)+30) },
		findings: "changed " + testFile + " 42",
	},
	"a bit of the last line": {
		do:       func(h *home) { h.flip(h.path(testFile), lineAt(99)+80) },
		findings: "changed " + testFile + " 100",
	},
	"bits in several lines": {
		do: func(h *home) {
			h.flip(h.path(testFile), lineAt(9)+80)
			h.flip(h.path(testFile), lineAt(10)+80)
			h.flip(h.path(testFile), lineAt(60)+80)
		},
		findings: "changed " + testFile + " 10+2, changed " + testFile + " 61",
	},
	"a bit of an earlier sealing's line": {
		do:       func(h *home) { h.flip(h.path(testFile), lineAt(3)+80) },
		findings: "changed " + testFile + " 4",
	},
	"a newline that is gone": {
		do:       func(h *home) { h.flip(h.path(testFile), lineAt(20)-1) },
		findings: "changed " + testFile + " 20, missing " + testFile + " 21",
	},
	"a dropped line": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { return slices.Delete(l, 49, 50) })
		},
		findings: "missing " + testFile + " 50",
	},
	"the first lines dropped": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { return slices.Delete(l, 0, 3) })
		},
		findings: "missing " + testFile + " 1+3",
	},
	"two lines swapped": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { l[10], l[11] = l[11], l[10]; return l })
		},
		findings: "moved " + testFile + " 12",
	},
	"two distant lines swapped": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { l[10], l[70] = l[70], l[10]; return l })
		},
		findings: "moved " + testFile + " 71, moved " + testFile + " 11",
	},
	"a line written twice": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { return slices.Insert(l, 31, l[30]) })
		},
		findings: "inserted " + testFile + " 32",
	},
	"a line put in": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { return slices.Insert(l, 30, entry(5000)+"\n") })
		},
		findings: "inserted " + testFile + " 31",
	},
	"a line put in at the beginning": {
		do: func(h *home) {
			h.edit(h.path(testFile), func(l []string) []string { return slices.Insert(l, 0, entry(5000)+"\n") })
		},
		findings: "inserted " + testFile + " 1",
	},
	"truncated between lines": {
		do:       func(h *home) { h.check(os.Truncate(h.path(testFile), int64(lineAt(60)))) },
		findings: "truncated " + testFile + " 61+40",
	},
	"truncated within a line": {
		do:       func(h *home) { h.check(os.Truncate(h.path(testFile), int64(lineAt(60)+7))) },
		findings: "truncated " + testFile + " 61+40",
		notes:    "torn " + testFile + " 61",
	},
	"truncated to nothing": {
		do:       func(h *home) { h.check(os.Truncate(h.path(testFile), 0)) },
		findings: "replaced " + testFile + " 1+100",
	},
	"an older copy put back": {
		do: func(h *home) {
			old := h.read(h.path(testFile))[:lineAt(60)]
			h.check(os.WriteFile(h.path("copy"), old, 0o640))
			h.check(os.Rename(h.path("copy"), h.path(testFile)))
		},
		findings: "replaced " + testFile + " 61+40",
	},
	"an equal copy put back": {
		do: func(h *home) {
			h.check(os.WriteFile(h.path("copy"), h.read(h.path(testFile)), 0o640))
			h.check(os.Rename(h.path("copy"), h.path(testFile)))
		},
	},
	"another file in its place": {
		do: func(h *home) {
			h.check(os.WriteFile(h.path("copy"), []byte(entry(7000)+"\n"+entry(7001)+"\n"), 0o640))
			h.check(os.Rename(h.path("copy"), h.path(testFile)))
		},
		findings: "replaced " + testFile + " 1+100",
		notes:    "unsealed " + testFile + " 1+2",
	},
	"renamed": {
		do:    func(h *home) { h.check(os.Rename(h.path(testFile), h.path("elsewhere"))) },
		notes: "renamed " + testFile + " 0+100",
	},
	"rotated": {
		do: func(h *home) {
			h.check(os.Rename(h.path(testFile), h.path(testFile+".1")))
			h.write(testFile, 100, 103)
		},
		notes: "renamed " + testFile + " 0+100, unsealed " + testFile + " 1+3",
	},
	"rotated and compressed": {
		do: func(h *home) {
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			_, _ = z.Write(h.read(h.path(testFile)))
			h.check(z.Close())
			h.check(os.WriteFile(h.path(testFile+".1.gz"), packed.Bytes(), 0o640))
			h.check(os.Remove(h.path(testFile)))
		},
		notes: "renamed " + testFile + " 0+100",
	},
	"rotated, and a line of it dropped": {
		do: func(h *home) {
			h.check(os.Rename(h.path(testFile), h.path(testFile+".1")))
			h.edit(h.path(testFile+".1"), func(l []string) []string { return slices.Delete(l, 49, 50) })
		},
		findings: "missing " + testFile + " 50",
		noticed:  "removed",
	},
	"removed": {
		do:       func(h *home) { h.check(os.Remove(h.path(testFile))) },
		findings: "removed " + testFile + " 1+100",
	},
	"removed, which is allowed": {
		do:            func(h *home) { h.check(os.Remove(h.path(testFile))) },
		notes:         "removed " + testFile + " 1+100",
		removedBefore: "2026-02-01",
	},
	"a link in its place": {
		do: func(h *home) {
			h.check(os.Rename(h.path(testFile), filepath.Join(filepath.Dir(h.audit), "away")))
			h.check(os.Symlink("../away", h.path(testFile)))
		},
		findings: "unreadable " + testFile + " 0, removed " + testFile + " 1+100",
		noticed:  "-",
	},
}

// sealed100 is a home with 100 lines in one file, sealed in three steps, and 10 in another.
func sealed100(t *testing.T) *home {
	h := newHome(t)
	h.start()
	h.write(other, 9000, 9010)
	h.write(testFile, 0, 10)
	h.seal()
	h.write(testFile, 10, 11)
	h.seal()
	h.write(testFile, 11, 100)
	h.seal()
	return h
}

// What was done while no sealer ran is named by the verification, exactly.
func TestManipulationsAreNamed(t *testing.T) {
	for name, m := range manipulations {
		t.Run(name, func(t *testing.T) {
			h := sealed100(t)
			h.stop()
			m.do(h)
			report := h.verify(func(o *Options) { o.RemovedBefore = m.removedBefore })
			if got := short(report.Findings); got != m.findings {
				t.Errorf("found %q, want %q", got, m.findings)
			}
			if got := short(report.Notes); got != m.notes {
				t.Errorf("noted %q, want %q", got, m.notes)
			}
			if report.OK != (m.findings == "") {
				t.Errorf("ok is %v, want %v", report.OK, m.findings == "")
			}
		})
	}
}

// A sealer that runs notices the same while it runs, and says so in the log of the seals. What it seals afterwards doesn't hide it: the verification finds
// the same, and nothing else.
func TestSealerNoticesManipulations(t *testing.T) {
	for name, m := range manipulations {
		t.Run(name, func(t *testing.T) {
			h := sealed100(t)
			defer h.stop()
			h.now = h.now.Add(2 * recheckInterval) // as if everything had been compared before
			m.do(h)
			h.seal()
			h.now = h.now.Add(2 * recheckInterval)
			h.seal()
			report := h.verify(func(o *Options) { o.RemovedBefore = m.removedBefore })
			noticed := 0
			report.Notes = slices.DeleteFunc(report.Notes, func(f Finding) bool {
				if f.Kind == NoticedBefore {
					noticed++
				}
				return f.Kind == NoticedBefore || f.Kind == Unsealed
			})
			if got := short(report.Findings); got != m.findings {
				t.Errorf("found %q, want %q", got, m.findings)
			}
			told := strings.Count(h.out.String(), "sealed lines of the audit log were changed")
			if wantTold := m.findings != "" && m.noticed != "-" || m.removedBefore != ""; (noticed > 0) != wantTold || (told > 0) != wantTold {
				t.Errorf("the sealer noticed %d times and told %d times, want that: %v\n%s", noticed, told, wantTold, h.out)
			}
			if told != h.sealer.status.changes {
				t.Errorf("its status has %d findings, want %d", h.sealer.status.changes, told)
			}
		})
	}
}
