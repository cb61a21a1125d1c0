package setup

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/identity"
)

func TestHomeIDIsMadeOnceAndRestored(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	path := filepath.Join(settings, "home_id")
	made, err := identity.ReadHome(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"nothing":          func() error { return nil },
		"removed":          func() error { return os.Remove(path) },
		"emptied":          func() error { return os.WriteFile(path, nil, 0o640) },
		"a service's copy": func() error { return os.Remove(filepath.Join(settings, "identity/secrets/home_id")) },
		"another's, in copy": func() error {
			return os.WriteFile(filepath.Join(settings, "identity/secrets/home_id"), []byte(identity.NewHome()), 0o600)
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		run(t, cfg)
		if got, err := identity.ReadHome(path); err != nil || got != made {
			t.Errorf("%s: the home id is %q, %v, want %q as before", name, got, err, made)
		}
		for _, service := range Services {
			if id, err := identity.Load(filepath.Join(settings, "identity", service)); err != nil || id.Home != made {
				t.Errorf("%s: identity of %s: %v, %v, want home %q", name, service, id, err, made)
			}
		}
	}
}

func TestHomeIDThatCannotBeKnown(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	path := filepath.Join(settings, "home_id")
	if err := os.WriteFile(path, []byte("rubbish"), 0o640); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(settings, "identity/secrets/home_id")
	if err := os.WriteFile(other, []byte(identity.NewHome()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("copies that differ: got %v, want an error that names %s", err, path)
	}
}

// A certificate that was issued before homes had ids is issued again.
func TestOldCertificatesAreReissued(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	dir := filepath.Join(cfg.Home, "user_data/settings/identity/gateway")
	authority, err := identity.LoadAuthority(filepath.Join(filepath.Dir(dir), "authority"))
	if err != nil {
		t.Fatal(err)
	}
	authority.Home = identity.NewHome()
	if err := authority.Issue("gateway", dir, cfg.Now); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); strings.Count(log, "certificate issued") != 1 {
		t.Errorf("want one new certificate, got:\n%s", log)
	}
}
