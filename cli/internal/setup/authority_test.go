package setup

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/identity"
)

// An authority that can't be read is named with what to do, and hinders only what needs it.
func TestAuthorityThatCantBeRead(t *testing.T) {
	for _, c := range []struct{ name, file, garbage string }{
		{"a key that is no PEM", identity.KeyFile, "garbage"},
		{"a certificate cut off", identity.CAFile, "-----BEGIN CERTIFICATE-----\nMIIB"},
		{"an empty key", identity.KeyFile, ""},
		{"another authority's key", identity.KeyFile, "other"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newHome(t)
			run(t, cfg)
			dir := filepath.Join(cfg.Home, "user_data/settings/identity")
			garbage := c.garbage
			if garbage == "other" {
				other := t.TempDir()
				a, err := identity.NewAuthority(cfg.Now)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Save(other); err != nil {
					t.Fatal(err)
				}
				garbage = content(t, filepath.Join(other, c.file))
			}
			if err := os.WriteFile(filepath.Join(dir, "authority", c.file), []byte(garbage), 0o600); err != nil {
				t.Fatal(err)
			}
			const fix = "docker compose up --detach --force-recreate"
			certificate := content(t, filepath.Join(dir, "gateway", identity.CertFile))
			if log := run(t, cfg); !strings.Contains(log, fix) || content(t, filepath.Join(dir, "gateway", identity.CertFile)) != certificate {
				t.Errorf("with a certificate for each service: %s, want what to do, and the certificates kept", log)
			}
			if err := os.Remove(filepath.Join(dir, "gateway", identity.CertFile)); err != nil {
				t.Fatal(err)
			}
			if err := Run(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), fix) || !strings.Contains(err.Error(), "identity/authority") {
				t.Errorf("with a certificate to be made: %v, want what to do", err)
			}
			for _, name := range Services {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if log := run(t, cfg); !strings.Contains(log, "made anew") {
				t.Errorf("without any certificate: %s, want a new authority", log)
			}
			if _, err := identity.Load(filepath.Join(dir, "gateway")); err != nil {
				t.Errorf("the gateway's new identity: %v", err)
			}
		})
	}
}
