package setup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/keyset"
)

// keyFiles are the two names of the key of the secrets.
func keyFiles(cfg Config) (operators, services string) {
	settings := filepath.Join(cfg.Home, "user_data/settings")
	return filepath.Join(settings, keyName), filepath.Join(settings, secretsDir, keyName)
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A key that another replaces reaches the service, and is not lost: secrets may need it.
func TestReconcileSharesAReplacedKey(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	operators, services := keyFiles(cfg)
	old := content(t, operators)
	reconcile(t, cfg)
	if out, err := as(0, 0, cfg.Home, "umask 022; cp user_data/settings/secrets_key k; mv k user_data/settings/secrets_key"); err != nil {
		t.Fatal(err, out)
	}
	until(t, "a copy of the key isn't shared", func() bool { return sameFile(operators, services) && keyset.Watch(services).Ready() == nil })

	next := filepath.Join(cfg.Home, "next")
	if err := errors.Join(os.WriteFile(next, []byte("garbage"), 0o600), os.Rename(next, operators)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(operators), keyset.Create(operators)); err != nil {
		t.Fatal(err)
	}
	until(t, "another key isn't shared", func() bool { return sameFile(operators, services) && keyset.Watch(services).Ready() == nil })
	kept, err := filepath.Glob(operators + ".replaced-*")
	if err != nil || len(kept) != 1 || content(t, kept[0]) != old {
		t.Errorf("kept %v, %v: want the key that was replaced", kept, err)
	}
}

// init never makes a key while there are secrets that another one is needed for.
func TestKeyThatIsMissing(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	operators, services := keyFiles(cfg)
	old := content(t, operators)
	if err := os.Remove(operators); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "restored") || content(t, operators) != old || !sameFile(operators, services) {
		t.Errorf("the key was not restored from the service's name: %s", log)
	}
	for _, path := range []string{operators, services} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(cfg.Home, "user_data/secrets/TOKEN.json")
	if err := os.WriteFile(secret, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "put it back from a backup") {
		t.Errorf("secrets without a key: logged %s, want what to do", log)
	}
	if _, err := os.Lstat(operators); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made while there were secrets: %v", err)
	}
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	run(t, cfg)
	if !sameFile(operators, services) {
		t.Error("no key was made where there are no secrets")
	}
	if err := os.WriteFile(operators+".new", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(operators+".new", operators); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "the secrets can't be used") || sameFile(operators, services) {
		t.Errorf("garbage as a key: logged %s, want that it isn't shared", log)
	}
}
