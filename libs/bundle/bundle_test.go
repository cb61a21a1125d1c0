package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

// made returns a bundle of contents.
func made(contents ...string) []byte {
	var out, index []byte
	for _, c := range contents {
		out = append(out, c...)
		index = AppendEntry(index, sha256.Sum256([]byte(c)), int64(len(c)))
	}
	return AppendFooter(append(out, index...), index)
}

func TestReadIndex(t *testing.T) {
	file := made("one", "", "three")
	entries, err := ReadIndex(bytes.NewReader(file), int64(len(file)))
	if err != nil || len(entries) != 3 {
		t.Fatalf("got %v, %v; want three entries", entries, err)
	}
	for i, want := range []string{"one", "", "three"} {
		e := entries[i]
		if got := string(file[e.Offset : e.Offset+e.Size]); got != want || e.Sum != sha256.Sum256([]byte(want)) {
			t.Errorf("entry %d is %q, want %q", i, got, want)
		}
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add(made())
	f.Add(made("one", "two"))
	f.Add(made("x")[1:])
	f.Fuzz(func(t *testing.T, file []byte) {
		entries, err := ReadIndex(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			if !errors.Is(err, ErrTorn) {
				t.Fatalf("got %v, want ErrTorn", err)
			}
			return
		}
		for _, e := range entries {
			if e.Offset < 0 || e.Size < 0 || e.Offset+e.Size > int64(len(file)) {
				t.Fatalf("entry %+v lies outside of %d bytes", e, len(file))
			}
		}
	})
}
