package setup

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/identity"
)

// newCA makes a certificate authority's certificate.
func newCA(t *testing.T) string {
	t.Helper()
	a, err := identity.NewAuthority(time.Now())
	dir := t.TempDir()
	if err = errors.Join(err, a.Save(dir)); err != nil {
		t.Fatal(err)
	}
	return content(t, filepath.Join(dir, identity.CAFile))
}

// What services see of the operator's authorities is always whole and good: a bad file leaves the copy and says why.
func TestAuthoritiesAreCopied(t *testing.T) {
	cfg := newHome(t)
	given := filepath.Join(t.TempDir(), "ca.pem")
	cfg.Authorities = []Authorities{{Setting: "RUMI_EGRESS_CA_FILE", Given: given, File: given, Name: "egress"}}
	copied := filepath.Join(cfg.Home, "user_data/settings/ca/egress/ca.pem")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(given, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second := newCA(t), newCA(t)

	if err := Run(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "RUMI_EGRESS_CA_FILE=") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that was never there: %v, want what to do", err)
	}
	write(first)
	run(t, cfg)
	file, err := authorities.Open("RUMI_EGRESS_CA_FILE", copied, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := as(serviceID, operatorGID, cfg.Home, "cat "+copied); err != nil || out != first {
		t.Errorf("the services read %q, %v, want the operator's file", out, err)
	}
	write(second)
	run(t, cfg)
	until(t, "the new authorities don't count", func() bool { return string(file.PEM()) == second })
	for bad, want := range map[string]string{"garbage": "holds no certificate", first[:len(first)/2]: "holds no certificate", second + first[:len(first)/2]: "cut off"} {
		write(bad)
		if log := run(t, cfg); !strings.Contains(log, want) || content(t, copied) != second {
			t.Errorf("%q: log %s, want %q and the old copy", bad, log, want)
		}
		if err := file.Ready(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), given) {
			t.Errorf("readiness for %q: %v, want %q and the operator's path", bad, err, want)
		}
	}
	if err := errors.Join(os.Remove(given), os.Mkdir(given, 0o755)); err != nil { // as the engine does
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "rmdir") || content(t, copied) != second {
		t.Errorf("a file that is gone: %s, want what to do and the old copy", log)
	}
	if err := os.Remove(given); err != nil {
		t.Fatal(err)
	}
	write(second)
	run(t, cfg)
	if err := file.Ready(); err != nil {
		t.Errorf("readiness with a good file again: %v", err)
	}
	cfg.Authorities[0].Given = ""
	run(t, cfg)
	if _, err := os.Lstat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy of a setting that was unset is still there: %v", err)
	}
}
