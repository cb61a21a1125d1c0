package auditlog

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
)

// What is done to the seals themselves is named, too, and a sealer refuses to go on where it would sign a second tree of the same size.
func TestManipulationsOfTheSealsAreNamed(t *testing.T) {
	hashes := filepath.Join(hashesDir, testFile+".1")
	for name, m := range map[string]struct {
		do       func(h *home)
		findings string
		refuses  string // what the sealer says; "" if it goes on
	}{
		"a record changed": {
			do: func(h *home) {
				h.edit(h.sealed(recordsFile), func(l []string) []string { l[1] = strings.Replace(l[1], "12:00:04", "12:00:05", 1); return l })
			},
			findings: "record_changed records.jsonl 2",
			refuses:  "line 3 of records.jsonl",
		},
		"a record that can't be read": {
			do: func(h *home) {
				h.edit(h.sealed(recordsFile), func(l []string) []string { l[1] = "x" + l[1]; return l })
			},
			findings: "record_changed records.jsonl 2",
			refuses:  "line 2 of records.jsonl",
		},
		"the last record changed": {
			do: func(h *home) {
				h.edit(h.sealed(recordsFile), func(l []string) []string { l[2] = strings.Replace(l[2], "12:00:08", "12:00:07", 1); return l })
			},
			findings: "record_changed records.jsonl 3",
			refuses:  "aren't those that checkpoint 3 has signed",
		},
		"a record dropped": {
			do: func(h *home) {
				h.edit(h.sealed(recordsFile), func(l []string) []string { return slices.Delete(l, 1, 2) })
			},
			findings: "records_missing records.jsonl 2",
			refuses:  "line 2 of records.jsonl",
		},
		"the last record dropped": {
			do: func(h *home) {
				h.edit(h.sealed(recordsFile), func(l []string) []string { return l[:2] })
			},
			findings: "records_missing records.jsonl 3, unsealed " + testFile + " 12+89",
			refuses:  "have 2 records, and a checkpoint has signed 3",
		},
		"all records removed": {
			do:       func(h *home) { h.check(os.Remove(h.sealed(recordsFile))) },
			findings: "records_missing records.jsonl 1+3, unsealed " + other + " 1+10, unsealed " + testFile + " 1+100",
			refuses:  "have 0 records, and a checkpoint has signed 3",
		},
		"a bit of the hashes": {
			do:       func(h *home) { h.flip(h.sealed(hashes), 40*hashSize) },
			findings: "hashes_changed hashes/" + testFile + ".1 12",
		},
		"the hashes cut": {
			do:       func(h *home) { h.check(os.Truncate(h.sealed(hashes), 50*hashSize)) },
			findings: "hashes_changed hashes/" + testFile + ".1 51",
		},
		"the hashes removed": {
			do:       func(h *home) { h.check(os.Remove(h.sealed(hashes))) },
			findings: "hashes_changed hashes/" + testFile + ".1 1",
		},
		"the hashes removed, and a line changed": {
			do: func(h *home) {
				h.check(os.Remove(h.sealed(hashes)))
				h.flip(h.path(testFile), lineAt(41)+30)
			},
			findings: "hashes_changed hashes/" + testFile + ".1 1, changed " + testFile + " 12+89",
		},
		"the checkpoint's signature": {
			do:       func(h *home) { h.flip(h.sealed(CheckpointFile), -4) },
			findings: "checkpoint_wrong checkpoint 0",
			refuses:  "no valid signature",
		},
		"the checkpoint removed": {
			do:       func(h *home) { h.check(os.Remove(h.sealed(CheckpointFile))) },
			findings: "checkpoint_wrong checkpoint 0",
		},
		"everything sealed anew by another key": {
			do: func(h *home) {
				h.check(os.RemoveAll(h.seals))
				h.check(os.Mkdir(h.seals, 0o750))
				private, _, err := NewKey(strings.Repeat("0a", 16))
				h.check(err)
				h.check(os.WriteFile(h.key, []byte(private), 0o600))
				h.start()
				h.seal()
				h.stop()
			},
			findings: "checkpoint_wrong checkpoint 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := sealed100(t)
			h.stop()
			m.do(h)
			report := h.verify(func(o *Options) { o.Now = o.Now.Add(time.Hour) })
			if got := short(report.Findings); got != m.findings {
				t.Errorf("found %q, want %q", got, m.findings)
			}
			s, err := openSealer(h.config(), &status{dir: h.status}, nil)
			if err == nil {
				s.close()
			}
			if got := fmt.Sprint(err); m.refuses == "" && err != nil || !strings.Contains(got, m.refuses) {
				t.Errorf("the sealer says %q, want %q", got, m.refuses)
			}
		})
	}
}

// Whoever can write everything, the seals and their key included, is found out by a checkpoint that was kept elsewhere.
func TestCheckpointsThatWereKept(t *testing.T) {
	h := sealed100(t)
	kept := h.prover().Newest()
	copied := filepath.Join(t.TempDir(), "copy")
	h.check(os.CopyFS(copied, os.DirFS(filepath.Dir(h.audit))))
	h.write(testFile, 100, 110)
	h.seal()
	h.stop()
	later := h.prover().Newest()
	verify := func(checkpoint []byte) string {
		return short(h.verify(func(o *Options) { o.Checkpoints = map[string][]byte{"kept": checkpoint} }).Findings)
	}
	for name, checkpoint := range map[string][]byte{"an earlier one": kept, "the newest": later, "as a log shows it": fmt.Appendf(nil, "%q\n", kept)} {
		if got := verify(checkpoint); got != "" {
			t.Errorf("with %s: found %q, want nothing", name, got)
		}
	}

	h.audit, h.seals = filepath.Join(copied, "audit"), filepath.Join(copied, "audit_log")
	if got := verify(later); got != "not_an_extension kept 0" {
		t.Errorf("everything was put back: found %q, want that the log is older", got)
	}
	h.write(testFile, 500, 510) // and other things happen than the first time
	h.start()
	h.seal()
	h.stop()
	if got := verify(later); got != "not_an_extension kept 0" {
		t.Errorf("everything was put back and continued: found %q, want that the log is another one", got)
	}
	if got := verify(kept); got != "" {
		t.Errorf("with the checkpoint from before: found %q, want nothing", got)
	}
	if _, err := Verify(Options{Audit: h.audit, Log: h.seals, PublicKey: []byte(h.public), Checkpoints: map[string][]byte{"kept": []byte("nonsense")}}); err == nil {
		t.Error("with nonsense as a checkpoint: no error, want one")
	}
}

// Lines that aren't sealed are a note for a minute, and a finding after that.
func TestUnsealedLines(t *testing.T) {
	h := sealed100(t)
	h.stop()
	h.write(testFile, 100, 103)
	h.write("system_2026-01-31.jsonl", 0, 1)
	const want = "unsealed " + testFile + " 101+3, unsealed system_2026-01-31.jsonl 1"
	if report := h.verify(nil); !report.OK || short(report.Notes) != want {
		t.Errorf("after 30 s: ok %v, notes %q, want %q", report.OK, short(report.Notes), want)
	}
	if report := h.verify(func(o *Options) { o.Now = o.Now.Add(time.Minute) }); report.OK || short(report.Findings) != want {
		t.Errorf("after 90 s: ok %v, findings %q, want %q", report.OK, short(report.Findings), want)
	}
}

// What a crash of a service leaves is sealed as it is, and noted.
func TestTornLines(t *testing.T) {
	h := newHome(t)
	h.start()
	defer h.stop()
	h.write(testFile, 0, 3)
	h.check(os.WriteFile(h.path(testFile), append(h.read(h.path(testFile)), entry(3)[:20]...), 0o640))
	h.seal()
	if report := h.verify(nil); !report.OK || short(report.Notes) != "torn "+testFile+" 4" {
		t.Errorf("with a torn end: ok %v, %q, want only a note", report.OK, short(report.Notes))
	}
	h.check(os.WriteFile(h.path(testFile), append(h.read(h.path(testFile)), "\n\n"...), 0o640))
	h.write(testFile, 4, 6)
	h.seal()
	report := h.verify(nil)
	if !report.OK || short(report.Notes) != "torn "+testFile+" 4" || report.Lines != 7 {
		t.Errorf("continued: ok %v, %q, %d lines, want a note about line 4, and 7 lines", report.OK, short(report.Notes), report.Lines)
	}
}

// A sealer is killed again and again while services write, rotate and start a new day; another one goes on where it has stopped. No line is lost,
// none is sealed twice, and every checkpoint that was ever there is one of the same log.
func TestKilledSealers(t *testing.T) {
	h := newHome(t)
	dir := filepath.Dir(h.audit)
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 { // a Log has files of its own, as each process has
		log, err := audit.Open(h.audit, "test", nil)
		h.check(err)
		writers.Go(func() {
			defer log.Close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := log.Write(t.Context(), audit.Entry{Category: audit.Network, Action: "something_happened"}); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	var kept [][]byte
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), sealHome+"="+dir, sealFast+"=1")
		stdin, err := cmd.StdinPipe() // it must not end before the kill
		h.check(err)
		h.check(cmd.Start())
		if round%2 == 0 { // so that it gets somewhere, however slow the machine is
			before, _ := os.ReadFile(h.sealed(CheckpointFile))
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				if now, err := os.ReadFile(h.sealed(CheckpointFile)); err == nil && !bytes.Equal(now, before) {
					break
				}
			}
		}
		time.Sleep(time.Duration(round*7) * time.Millisecond)
		h.check(cmd.Process.Kill())
		_ = cmd.Wait()
		stdin.Close()
		if round == 6 {
			name := h.path("network_" + time.Now().UTC().Format(time.DateOnly) + ".jsonl")
			h.check(os.Rename(name, name+".1"))
		}
		if data, err := os.ReadFile(h.sealed(CheckpointFile)); err == nil {
			kept = append(kept, data)
		}
	}
	close(stop)
	writers.Wait()
	h.now = time.Now()
	h.start()
	h.seal()
	h.stop()
	report := h.verify(func(o *Options) {
		o.Now, o.Checkpoints = time.Now(), map[string][]byte{}
		for i, data := range kept {
			o.Checkpoints[fmt.Sprint(i)] = data
		}
	})
	notes := slices.DeleteFunc(report.Notes, func(f Finding) bool { return f.Kind == Renamed })
	if !report.OK || len(notes) > 0 || len(kept) < 3 || report.Lines < 100 {
		t.Errorf("found %q, noted %q, with %d checkpoints and %d lines; want nothing, some and many", short(report.Findings), short(notes), len(kept), report.Lines)
	}
}

// While the disk is full nothing is sealed, and the health says so. Afterwards everything is sealed: half-written records and hashes have left
// nothing behind.
func TestFullDisk(t *testing.T) {
	h := newHome(t)
	file := "network_" + time.Now().UTC().Format(time.DateOnly) + ".jsonl"
	h.write(file, 0, 10)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), sealHome+"="+filepath.Dir(h.audit), sealFast+"=1", sealFull+"=3000")
	stdin, err := cmd.StdinPipe()
	h.check(err)
	h.check(cmd.Start())
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not after 20 s", what)
			}
		}
	}
	written := 10
	await("the disk is full", func() bool {
		h.write(file, written, written+1) // a record each, and then the hashes
		written++
		err := Health(h.status, time.Now())
		return err != nil && strings.Contains(err.Error(), "file too large")
	})
	h.write(file, written, 2000)
	h.check(unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil))
	await("it seals again", func() bool { return Health(h.status, time.Now()) == nil && h.sealedLines() == 2000 })
	h.check(stdin.Close())
	h.check(cmd.Wait())
	if report := h.verify(func(o *Options) { o.Now = time.Now() }); !report.OK || report.Lines != 2000 {
		t.Errorf("found %q in %d lines, want nothing in 2000", short(report.Findings), report.Lines)
	}
}

// sealedLines counts the lines in the records.
func (h *home) sealedLines() (lines uint64) {
	for _, r := range h.records() {
		for _, s := range r.Sealed {
			lines += s.Lines
		}
	}
	return lines
}

func TestOneSealerAtATime(t *testing.T) {
	h := sealed100(t)
	defer h.stop()
	if _, err := openSealer(h.config(), &status{dir: h.status}, nil); err == nil || !strings.Contains(err.Error(), "another sealer") {
		t.Errorf("a second sealer: got %v, want that there is another", err)
	}
}

// A kill can leave each of these behind.
func TestWhatAKillLeaves(t *testing.T) {
	for name, leave := range map[string]func(h *home){
		"hashes without a record": func(h *home) {
			f, err := os.OpenFile(h.sealed(hashesDir+"/"+testFile+".1"), os.O_WRONLY|os.O_APPEND, 0)
			h.check(err)
			defer f.Close()
			_, err = f.Write(make([]byte, 5*hashSize+7))
			h.check(err)
		},
		"half a record": func(h *home) {
			h.check(os.WriteFile(h.sealed(recordsFile), append(h.read(h.sealed(recordsFile)), `{"n":3,"at":"2026`...), 0o640))
		},
		"an older checkpoint": func(h *home) { h.check(os.WriteFile(h.sealed(CheckpointFile), h.prover().Newest(), 0o640)) },
		"no checkpoint":       func(h *home) { h.check(os.Remove(h.sealed(CheckpointFile))) },
		"half a checkpoint": func(h *home) {
			h.check(os.WriteFile(h.sealed("."+CheckpointFile+".new"), []byte("rumi-aud"), 0o640))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := sealed100(t)
			h.stop()
			leave(h)
			h.write(testFile, 100, 120)
			h.start()
			h.seal()
			h.stop()
			if report := h.verify(nil); !report.OK || len(report.Notes) > 0 || report.Lines != 130 {
				t.Errorf("found %q, noted %q, %d lines; want nothing, nothing and 130", short(report.Findings), short(report.Notes), report.Lines)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	h := sealed100(t)
	defer h.stop()
	if err := Health(h.status, h.now); err != nil {
		t.Errorf("of a sealer that works: %v", err)
	}
	if err := Health(h.status, h.now.Add(time.Minute)); err == nil {
		t.Error("of a sealer that has done nothing for a minute: no error, want one")
	}
	h.check(os.Truncate(h.path(testFile), 5))
	h.seal()
	if err := Health(h.status, h.now); err == nil || !strings.Contains(err.Error(), "were changed") {
		t.Errorf("after a change: got %v, want that lines were changed", err)
	}
}
