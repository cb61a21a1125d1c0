package authorities_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/reread"
)

func newCA(t *testing.T) string {
	t.Helper()
	a, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, identity.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem)
}

// A version that can't be used leaves the last good one in force and is named; a good one counts within Refresh.
func TestFileKeepsWhatIsGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	first, second := newCA(t), newCA(t)
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := authorities.Open("RUMI_X", path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "RUMI_X: ") || !strings.Contains(err.Error(), path) {
			t.Errorf("a file that is missing: %v, want setting and path", err)
		}
		replace(first)
		file, err := authorities.Open("RUMI_X", path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		expect := func(pem, problem string) {
			t.Helper()
			time.Sleep(reread.Refresh)
			if got := string(file.PEM()); got != pem {
				t.Errorf("in force are %q, want %q", got, pem)
			}
			if err := file.Ready(); (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
				t.Errorf("readiness is %v, want %q", err, problem)
			}
		}
		replace(second)
		expect(second, "")
		replace("garbage")
		expect(second, "holds no certificate")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		expect(second, "no such file")
		replace(first)
		expect(first, "")
		if err := os.WriteFile(path+authorities.ProblemSuffix, []byte("RUMI_X=y: why\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(first, "RUMI_X=y: why")
	})
}
