package cabundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is the PEM of a certificate.
func authority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// write writes a bundle of a system's file and what an operator's file holds.
func write(path, system, operator string) error {
	b := &Bundle{Path: path, System: system, Operator: func() []byte { return []byte(operator) }, Log: slog.New(slog.DiscardHandler)}
	return b.Write()
}

func TestWrite(t *testing.T) {
	one, two := authority(t), authority(t)
	for _, c := range []struct {
		name, system, operator, fails string
	}{
		{"both", one, two, ""},
		{"no newline at the end", strings.TrimSpace(one), strings.TrimSpace(two), ""},
		{"an operator's file without a certificate", one, "-----BEGIN NONSENSE-----\n", "the operator's file holds no certificate"},
		{"an empty one", one, "", "the operator's file holds no certificate"},
		{"a system without any", "", two, "system.pem holds no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			system, path := filepath.Join(dir, "system.pem"), filepath.Join(dir, "bundle.pem")
			if err := os.WriteFile(system, []byte(c.system), 0o600); err != nil {
				t.Fatal(err)
			}
			err := write(path, system, c.operator)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want %q", err, c.fails)
				}
				if _, err := os.Lstat(path); err == nil {
					t.Error("a bundle was written")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			count := 0
			for rest := bundle; ; count++ {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					break
				}
			}
			is, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if count != 2 || is.Mode().Perm() != 0o444 {
				t.Errorf("the bundle has %d certificates and the mode %v, want 2 and 0444", count, is.Mode())
			}
			// Running containers have that very file; one that is right is left alone.
			if err := write(path, system, c.operator); err != nil {
				t.Fatal(err)
			}
			if again, err := os.Stat(path); err != nil || !os.SameFile(is, again) {
				t.Errorf("the same bundle was written again: %v", err)
			}
			if err := write(path, system, c.system); err != nil {
				t.Fatal(err)
			}
			if again, err := os.Stat(path); err != nil || os.SameFile(is, again) {
				t.Errorf("another bundle was written into the file that containers have: %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 0 {
				t.Errorf("the folder has the leftovers %v (%v), want none", left, err)
			}
		})
	}
	if err := write(filepath.Join(t.TempDir(), "bundle.pem"), "/nonexistent", authority(t)); err == nil {
		t.Error("files that aren't there are no error")
	}
}

// An operator's file that is being rewritten, or was damaged, stops no pack.
func TestRefreshKeepsTheBundleOfBefore(t *testing.T) {
	dir, operator := t.TempDir(), authority(t)
	system, path := filepath.Join(dir, "system.pem"), filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(system, []byte(authority(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Bundle{Path: path, System: system, Operator: func() []byte { return []byte(operator) }, Log: slog.New(slog.DiscardHandler)}
	if err := b.Write(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, operator string
		changed        bool
	}{{"damaged", "", false}, {"another", authority(t), true}} {
		operator = c.operator
		if got := b.Refresh(); got != path {
			t.Errorf("%s: Refresh = %q, want %q", c.name, got, path)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(after) != string(before); got != c.changed {
			t.Errorf("%s: the bundle changed: %v, want %v", c.name, got, c.changed)
		}
	}
}
