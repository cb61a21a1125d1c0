package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/packtrace"
)

// The key of traces is made once, and made anew where it is lost. What is no key stays, and is told.
func TestKeyOfTraces(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	path := filepath.Join(cfg.Home, "user_data/settings", packtrace.Dir, packtrace.File)
	first := content(t, path)
	run(t, cfg)
	if got := content(t, path); got != first {
		t.Error("a second run of init made another key, want the one that was there")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	run(t, cfg)
	if _, err := packtrace.Load(path); err != nil {
		t.Errorf("the lost key: got %v, want a new one", err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "remove the file") || content(t, path) != "garbage" {
		t.Errorf("garbage as a key: logged %q, want what to do, and the file as it was", log)
	}
}
