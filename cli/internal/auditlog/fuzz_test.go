package auditlog

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// What lies in the folder of the seals may have been made by an attacker: whatever it is, the verification ends, says that not all is well, and
// nothing panics. The first byte says which file is replaced.
func FuzzVerify(f *testing.F) {
	for i := range sealFiles {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte(`{"n":0,"at":"2026-01-31T12:00:00Z","before":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","sealed":[{"file":"network_2026-01-31.jsonl","part":1,"first":1,"lines":65536,"bytes":9,"inode":1,"root":"jd1OBQnpvCwSniwmvVnLS5iQCBmf0lSw0qg8QdLNqTg="}]}`+"\n"))
		f.Add(byte(i), []byte("rumi-audit/0a0a\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— rumi-audit/0a0a AAAA\n"))
	}
	h := newHomeIn(f, f.TempDir())
	h.start()
	h.write(testFile, 0, 20)
	h.seal()
	h.stop()
	originals := map[string][]byte{}
	for _, name := range sealFiles {
		originals[name] = h.read(h.sealed(name))
	}
	f.Fuzz(func(t *testing.T, which byte, content []byte) {
		name := sealFiles[int(which)%len(sealFiles)]
		if bytes.Equal(content, originals[name]) {
			t.Skip("nothing is changed")
		}
		must(t, os.WriteFile(h.sealed(name), content, 0o640))
		defer func() { must(t, os.WriteFile(h.sealed(name), originals[name], 0o640)) }()
		report, err := Verify(Options{Audit: h.audit, Log: h.seals, PublicKey: []byte(h.public), Now: time.Now()})
		if err != nil {
			t.Fatalf("%s replaced: %v, want a report", name, err)
		}
		// What follows the signed records, or the hashes of the sealed lines, is a crash's.
		if report.OK && !bytes.HasPrefix(content, originals[name]) {
			t.Errorf("%s replaced by %q: all is well, want a finding", name, content)
		}
		s, err := openSealer(h.config(), &status{dir: h.status}, nil)
		if err == nil {
			s.close()
		}
	})
}

var sealFiles = []string{recordsFile, CheckpointFile, hashesDir + "/" + testFile + ".1"}

// No proof but a real one verifies.
func FuzzProof(f *testing.F) {
	h := newHomeIn(f, f.TempDir())
	h.start()
	h.write(testFile, 0, 20)
	h.seal()
	h.write(testFile, 20, 30)
	h.seal()
	h.stop()
	p, err := OpenProver(h.audit, h.seals, []byte(h.public))
	must(f, err)
	defer p.Close()
	real, err := p.Prove(Place{testFile, 7})
	must(f, err)
	extension, err := p.Extends(p.Newest(), []byte(h.public))
	must(f, err)
	for _, made := range []any{real, extension} {
		data, err := json.Marshal(made)
		must(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"checkpoint":"x","line_path":["` + "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" + `"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, extension, err := ParseProof(data)
		if err != nil {
			return
		}
		if extension != nil {
			if from, to, err := extension.Verify([]byte(h.public)); err == nil && from.Size > to.Size {
				t.Errorf("a smaller log is a continuation of a larger one: %s", data)
			}
			return
		}
		if _, _, err := line.Verify([]byte(h.public)); err == nil && (line.Entry != entry(int(line.Line)-1) || line.File != testFile) {
			t.Errorf("it proves an entry that was never written: %s", data)
		}
	})
}
