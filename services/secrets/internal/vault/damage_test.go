package vault

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// TestDamage: each way to harm one file keeps that key from being used, is logged, and leaves the others working.
func TestDamage(t *testing.T) {
	flip := func(data []byte, i int) []byte { d := bytes.Clone(data); d[i] ^= 1; return d }
	for name, harm := range map[string]func(h *home, path string, data []byte) error{
		"empty":            func(_ *home, p string, _ []byte) error { return os.WriteFile(p, nil, 0o600) },
		"cut":              func(_ *home, p string, d []byte) error { return os.WriteFile(p, d[:len(d)/2], 0o600) },
		"not JSON":         func(_ *home, p string, _ []byte) error { return os.WriteFile(p, []byte("hunter2"), 0o600) },
		"array":            func(_ *home, p string, _ []byte) error { return os.WriteFile(p, []byte("[]"), 0o600) },
		"null":             func(_ *home, p string, _ []byte) error { return os.WriteFile(p, []byte("null"), 0o600) },
		"two objects":      func(_ *home, p string, d []byte) error { return os.WriteFile(p, append(d, d...), 0o600) },
		"unknown member":   replaceIn(`"version"`, `"x":1,"version"`),
		"duplicate member": replaceIn(`"version":1`, `"version":1,"version":1`),
		"other version":    replaceIn(`"version":1`, `"version":2`),
		"other key inside": replaceIn(`"key":"A"`, `"key":"B"`),
		"no times":         replaceIn(`"created_at"`, `"deleted_at":"2026-01-01T00:00:00Z","created_at"`),
		"value of B":       func(h *home, p string, _ []byte) error { return copyFile(h.path("B.json"), p) },
		"value of B under A's name": func(h *home, p string, _ []byte) error {
			data, err := os.ReadFile(h.path("B.json"))
			if err != nil {
				return err
			}
			return os.WriteFile(p, bytes.Replace(data, []byte(`"key":"B"`), []byte(`"key":"A"`), 1), 0o600)
		},
		"flipped bit of the value": func(_ *home, p string, d []byte) error {
			return os.WriteFile(p, flip(d, bytes.Index(d, []byte(`"sealed":"`))+len(`"sealed":"`)+20), 0o600)
		},
		"huge":      func(_ *home, p string, _ []byte) error { return os.Truncate(p, maxFile+1) },
		"link to B": func(h *home, p string, _ []byte) error { return errors.Join(os.Remove(p), os.Symlink("B.json", p)) },
		"link outside": func(_ *home, p string, _ []byte) error {
			return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p))
		},
		"FIFO":   func(_ *home, p string, _ []byte) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) },
		"folder": func(_ *home, p string, _ []byte) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			v := h.open(t)
			set(t, v, "A", "value-of-a")
			set(t, v, "B", "value-of-b")
			if err := harm(h, h.path("A.json"), h.contents(t, "A.json")); err != nil {
				t.Fatal(err)
			}
			v = h.open(t) // a start goes on
			if _, err := v.Value(t.Context(), "A"); err == nil || fault.Is(err, fault.KindNotFound) {
				t.Fatalf("value of the damaged key: %v; want an internal error", err)
			}
			wantValue(t, v, "B", "value-of-b")
			list, err := v.List(t.Context())
			if err != nil || len(list) != 2 || !list[0].Damaged || list[0].Exists() || !list[1].Exists() {
				t.Fatalf("the list is %+v, %v; want A damaged and B there", list, err)
			}
			if log := h.logs.String(); !strings.Contains(log, `"key":"A"`) || strings.Contains(log, "hunter2") || strings.Contains(log, "value-of") {
				t.Errorf("the log is %s, want A named and no value", log)
			}
			if got := h.entries(t, "security"); !strings.Contains(got, `"hash_mismatch"`) || strings.Contains(got, "hunter2") {
				t.Errorf("the security entries are %s, want hash_mismatch and no value", got)
			}
			if name == "folder" {
				return // what somebody put there is not ours to remove
			}
			if created := set(t, v, "A", "mended"); !created {
				t.Error("mending did not count as created")
			}
			wantValue(t, v, "A", "mended")
			wantValue(t, v, "B", "value-of-b")
		})
	}
	t.Run("another keyset", func(t *testing.T) {
		h := newHome(t)
		set(t, h.open(t), "A", "value-of-a")
		h.cipher = newCipher(t)
		v := h.open(t)
		if _, err := v.Value(t.Context(), "A"); !errors.Is(err, errDamaged) {
			t.Fatalf("the value gives %v, want errDamaged", err)
		}
	})
	t.Run("a damaged key can be deleted", func(t *testing.T) {
		h := newHome(t)
		v := h.open(t)
		set(t, v, "A", "value-of-a")
		if err := os.WriteFile(h.path("A.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := v.Delete(t.Context(), "A"); err != nil {
			t.Fatal(err)
		}
		wantMissing(t, v, "A")
	})
}

func replaceIn(old, with string) func(*home, string, []byte) error {
	return func(_ *home, p string, d []byte) error {
		changed := bytes.Replace(d, []byte(old), []byte(with), 1)
		if bytes.Equal(changed, d) {
			return errors.New("nothing to replace")
		}
		return os.WriteFile(p, changed, 0o600)
	}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

func FuzzDecodeFile(f *testing.F) {
	good, err := encodeFile(file{Version: 1, Key: "A", CreatedAt: time.Unix(1, 0).UTC(), UpdatedAt: time.Unix(2, 0).UTC(), Sealed: []byte("sealed")})
	if err != nil {
		f.Fatal(err)
	}
	tomb, err := encodeFile(file{Version: 1, Key: "A", CreatedAt: time.Unix(1, 0).UTC(), UpdatedAt: time.Unix(2, 0).UTC(), DeletedAt: time.Unix(3, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{good, tomb, nil, []byte("{}"), []byte(`{"version":1}`), []byte("\xff"), good[:20]} {
		f.Add(seed)
	}
	cipher := newCipher(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeFile("A", data)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatalf("the error is %v, want errDamaged", err)
			}
			return
		}
		if got.Key != "A" || got.deleted() == (len(got.Sealed) > 0) {
			t.Fatalf("accepted %+v, want the key A, with a value unless it is deleted", got)
		}
		if text, err := cipher.Decrypt(got.Sealed, []byte("A")); err == nil {
			t.Fatalf("opened what nobody sealed: %d bytes", len(text))
		}
		again, err := encodeFile(got)
		if err != nil {
			t.Fatalf("can't write again what was read: %v", err)
		}
		if _, err := decodeFile("A", again); err != nil {
			t.Fatalf("can't read again what was written: %v", err)
		}
	})
}
