package policy

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

// entries collects audit entries, or refuses them.
type entries struct {
	mu   sync.Mutex
	err  error
	list []audit.Entry
}

func (e *entries) Write(_ context.Context, entry audit.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	e.list = append(e.list, entry)
	return nil
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

const closed = `{"version": 1, "network": {"domains": {"allow": []}}}`

func TestReaderFollowsTheCopyAndABadOneKeepsTheOld(t *testing.T) {
	dir, log := t.TempDir(), &entries{}
	put(t, dir, FileName, string(None().Document()))
	synctest.Test(t, func(t *testing.T) {
		r, err := Open(dir, slog.New(slog.DiscardHandler), log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Follow(ctx)
		expect := func(what string, want *Policy, problem string) {
			t.Helper()
			time.Sleep(2 * Refresh)
			if got := r.Current().Digest(); got != want.Digest() {
				t.Errorf("%s: got %s, want %s", what, got, want.Digest())
			}
			switch err := r.Ready(); {
			case problem == "" && err != nil, problem != "" && (err == nil || !strings.Contains(err.Error(), problem)):
				t.Errorf("%s: Ready is %v, want %q", what, err, problem)
			}
		}
		narrow, wide := mustParse(t, closed), None()
		expect("at first", wide, "")
		put(t, dir, FileName, closed)
		expect("a new one", narrow, "")
		put(t, dir, FileName, `{"version": 1,}`)
		expect("a bad one", narrow, "line 1, column 14: a comma before }")
		put(t, dir, FileName, closed)
		put(t, dir, ProblemName, "the operator's file is bad\n")
		expect("a problem of the operator's file", narrow, "the operator's file is bad")
		if err := os.Remove(filepath.Join(dir, ProblemName)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, FileName)); err != nil {
			t.Fatal(err)
		}
		expect("none any more", narrow, "no such file")
		log.mu.Lock()
		log.err = errors.New("disk full")
		log.mu.Unlock()
		put(t, dir, FileName, string(wide.Document()))
		expect("a change that can't be audited", narrow, "disk full")
		log.mu.Lock()
		log.err = nil
		log.mu.Unlock()
		expect("a change that can be audited again", wide, "")
		if len(log.list) != 2 || log.list[0].Action != "policy_changed" || log.list[0].Details["digest"] != narrow.Digest() ||
			log.list[0].Details["previous_digest"] != wide.Digest() || log.list[1].Details["digest"] != wide.Digest() {
			t.Errorf("audit: got %+v, want two entries, of the two changes", log.list)
		}
	})
}

func TestAReaderWithoutAPolicyIsAnError(t *testing.T) {
	link := t.TempDir()
	put(t, link, "elsewhere", closed)
	if err := os.Symlink("elsewhere", filepath.Join(link, FileName)); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	bad := t.TempDir()
	put(t, bad, FileName, "{}")
	for what, dir := range map[string]string{"empty folder": t.TempDir(), "no folder": filepath.Join(t.TempDir(), "x"), "link": link, "folder": folder, "bad": bad} {
		if r, err := Open(dir, slog.New(slog.DiscardHandler), &entries{}); err == nil {
			t.Errorf("%s: got the policy %s, want an error", what, r.Current().Document())
		}
	}
}
