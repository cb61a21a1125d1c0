package keyset_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/keyset"
)

// A key that the operator replaced or removed is used no more, and the new one at once.
func TestFileFollowsTheOperatorsKey(t *testing.T) {
	dir := t.TempDir()
	operators, services := filepath.Join(dir, "secrets_key"), filepath.Join(dir, "secrets")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(f *keyset.File, want string) {
		t.Helper()
		_, err := f.Encrypt([]byte("v"), nil)
		_, other := f.Decrypt([]byte("v"), nil)
		for _, err := range []error{err, other, f.Ready()} {
			if !errors.Is(err, keyset.ErrUnavailable) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want ErrUnavailable with %q", err, want)
			}
		}
	}
	key := keyset.Watch(services)
	refused(key, "secrets_key is missing")
	check(keyset.Create(operators))
	check(os.Link(operators, services))
	check(key.Ready())
	sealed, err := key.Encrypt([]byte("v"), nil)
	check(err)

	check(os.Rename(operators, operators+".kept"))
	if _, err := key.Decrypt(sealed, nil); err != nil {
		t.Errorf("a key with both names: %v", err)
	}
	check(os.Remove(operators + ".kept"))
	refused(key, "was replaced or removed")

	check(os.Link(services, operators)) // put back
	if got, err := key.Decrypt(sealed, nil); err != nil || string(got) != "v" {
		t.Errorf("the key that was put back: %q, %v; want v", got, err)
	}
	check(os.Remove(operators))
	check(keyset.Create(operators))
	refused(key, "was replaced or removed")
	check(os.Link(operators, services+".new"))
	check(os.Rename(services+".new", services))
	if _, err := key.Decrypt(sealed, nil); err == nil || errors.Is(err, keyset.ErrUnavailable) {
		t.Errorf("decrypted with the old key: %v, want the new key's refusal", err)
	}
	check(os.WriteFile(operators, []byte("garbage"), 0o600))
	refused(key, "restore it from a backup")
}
