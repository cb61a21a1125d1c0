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
			certificate := content(t, filepath.Join(dir, "gateway", identity.IdentityFile))
			if log := run(t, cfg); !strings.Contains(log, fix) || content(t, filepath.Join(dir, "gateway", identity.IdentityFile)) != certificate {
				t.Errorf("with a certificate for each service: %s, want what to do, and the certificates kept", log)
			}
			if err := os.Remove(filepath.Join(dir, "gateway", identity.IdentityFile)); err != nil {
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

// A home of the version before: the authority is root's, and certificates of two years lie in two files. It comes up, and so does the
// version before after it.
func TestHomeOfTheVersionBefore(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	dir := filepath.Join(cfg.Home, "user_data/settings/identity")
	authority := filepath.Join(dir, authorityDir)
	ca := content(t, filepath.Join(authority, identity.CAFile))
	for _, path := range []string{authority, filepath.Join(authority, identity.CAFile), filepath.Join(authority, identity.KeyFile)} {
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(authority, identity.RegisterFile)); err != nil {
		t.Fatal(err)
	}
	for _, name := range Services {
		if err := os.Remove(filepath.Join(dir, name, identity.IdentityFile)); err != nil {
			t.Fatal(err)
		}
		for _, former := range []string{"cert.pem", "key.pem"} {
			if err := os.WriteFile(filepath.Join(dir, name, former), []byte("former"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(t, cfg)
	for _, name := range Services {
		id, err := identity.Load(filepath.Join(dir, name))
		if err != nil || identity.Life(id.Certificate()) > identity.MaxLife {
			t.Errorf("%s has %v, %v; want a certificate of 90 days", name, id, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name, "key.pem")); err == nil {
			t.Errorf("%s has its former key still", name)
		}
	}
	if content(t, filepath.Join(authority, identity.CAFile)) != ca {
		t.Error("the authority was made anew, want it kept")
	}
	if out, err := as(serviceID, serviceID, dir, "cat authority/key.pem approval/identity.pem && touch approval/x authority/x"); err != nil {
		t.Errorf("the services' user can't use the files: %v\n%s", err, out)
	}
}

// A machine was off for longer than certificates live, and the engine starts the services without init.
func TestReconcilerReplacesEndedCertificates(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	dir := filepath.Join(cfg.Home, "user_data/settings/identity")
	gateway := content(t, filepath.Join(dir, "gateway", identity.IdentityFile))
	authority, err := identity.LoadAuthority(filepath.Join(dir, authorityDir))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(filepath.Join(dir, "approval"))
	if err != nil {
		t.Fatal(err)
	}
	authority.Home = id.Home
	if err := authority.Issue("approval", filepath.Join(dir, "approval"), cfg.Now.Add(-identity.MaxLife)); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewRegister(filepath.Join(dir, authorityDir)).Revoke("secrets", "", cfg.Now); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	step := cfg.replaceEnded(dir, id.Home, slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"approval", "secrets"} {
		if !authority.Good(name, filepath.Join(dir, name), cfg.Now) || strings.Count(log.String(), "service="+name) != 1 {
			t.Errorf("%s has no good certificate, or more than one was issued:\n%s", name, log.String())
		}
	}
	if content(t, filepath.Join(dir, "gateway", identity.IdentityFile)) != gateway {
		t.Error("the gateway's good certificate was replaced")
	}
	if out, err := as(serviceID, serviceID, dir, "cat approval/identity.pem"); err != nil {
		t.Errorf("the service can't read its new certificate: %v\n%s", err, out)
	}
}
