package auditlog

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// A long log isn't read at each start, whatever happened to its state: a damaged or old one only costs time.
func TestStateOfALongLog(t *testing.T) {
	defer func(n uint64) { stateEvery = n }(stateEvery)
	stateEvery = 3
	grow := func(h *home, from int) {
		h.start()
		for n := from; n < from+5; n++ {
			h.write(testFile, n, n+1)
			h.seal()
		}
		h.stop()
	}
	for name, c := range map[string]struct {
		change func(h *home, older []byte)
		read   bool // the records are read from the beginning
	}{
		"as it is":     {func(*home, []byte) {}, false},
		"an older one": {func(h *home, older []byte) { h.check(os.WriteFile(h.sealed(stateFile), older, 0o640)) }, false},
		"none":         {func(h *home, _ []byte) { h.check(os.Remove(h.sealed(stateFile))) }, true},
		"a bit":        {func(h *home, _ []byte) { h.flip(h.sealed(stateFile), 14) }, true},
		"cut":          {func(h *home, _ []byte) { h.check(os.Truncate(h.sealed(stateFile), 100)) }, true},
		"empty":        {func(h *home, _ []byte) { h.check(os.Truncate(h.sealed(stateFile), 0)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			grow(h, 0)
			older := h.read(h.sealed(stateFile))
			grow(h, 5)
			if bytes.Equal(older, h.read(h.sealed(stateFile))) {
				t.Error("the state wasn't saved again")
			}
			c.change(h, older)
			// A change in the first record shows whether it is read.
			records := h.read(h.sealed(recordsFile))
			h.edit(h.sealed(recordsFile), func(l []string) []string { l[0] = strings.Replace(l[0], `"n":0`, `"n":7`, 1); return l })
			s, err := openSealer(h.config(), &status{dir: h.status}, nil)
			if err == nil {
				s.close()
			}
			if (err != nil) != c.read {
				t.Errorf("with a changed first record: %v, want an error: %v", err, c.read)
			}
			h.check(os.WriteFile(h.sealed(recordsFile), records, 0o640))
			grow(h, 10)
			if report := h.verify(nil); !report.OK || report.Lines != 15 || report.Records != 15 {
				t.Errorf("found %q, %d lines in %d records; want nothing and 15", short(report.Findings), report.Lines, report.Records)
			}
		})
	}
	h := newHome(t)
	grow(h, 0)
	h.edit(h.sealed(recordsFile), func(l []string) []string { return l[:4] })
	if _, err := openSealer(h.config(), &status{dir: h.status}, nil); err == nil {
		t.Error("with a record that is gone: no error, want one")
	}
}
