package token_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

// write leaves text in the file at path, which has two names, as init leaves it.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, operators(path)); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

// operators is the operator's name of the file at path.
func operators(path string) string { return path + ".operator" }

func open(t testing.TB, text string) (*token.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api_token")
	write(t, path, text)
	f, err := token.Open(path, slog.New(slog.DiscardHandler), func() { changes.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

var changes atomic.Int32 // of the token of the test that runs

func TestCheck(t *testing.T) {
	const right = "0123456789abcdef"
	f, _ := open(t, right+"\n")
	for presented, want := range map[string]bool{
		right: true, "": false, right + "\n": false, right + "\x00": false, right[:15]: false, right + "0": false,
		strings.ToUpper(right): false, " " + right: false, strings.Repeat("a", 512): false, strings.Repeat("a", 100_000): false,
	} {
		if got := good(f, presented); got != want {
			t.Errorf("good(%.40q) = %v, want %v", presented, got, want)
		}
	}
}

func TestLongestToken(t *testing.T) {
	longest := strings.Repeat("a", 512)
	f, _ := open(t, longest)
	if !good(f, longest) || good(f, longest[:511]) {
		t.Fatal("a token of 512 bytes is not told from one of 511")
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "blank": " \n", "two words": "hunter2 b", "long": strings.Repeat("a", 513), "not ASCII": "hunter2é", "NUL": "hunter2\x00"} {
		path := filepath.Join(t.TempDir(), "api_token")
		write(t, path, text)
		if _, err := token.Open(path, slog.New(slog.DiscardHandler), nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error without the token", name, err)
		}
	}
	if _, err := token.Open(filepath.Join(t.TempDir(), "api_token"), nil, nil); err == nil || !strings.Contains(err.Error(), "docker compose up --detach") {
		t.Errorf("a file that is missing: got %v, want an error that says how to make one", err)
	}
}

func TestReplacedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := open(t, "first-token")
		write(t, path, "second-token")
		if !good(f, "second-token") {
			t.Fatal("the new token is not good at once")
		}
		if good(f, "first-token") {
			t.Fatal("the old token is good after the new one was seen")
		}
		write(t, path, "third-token")
		time.Sleep(token.Refresh)
		if good(f, "second-token") {
			t.Fatal("the old token is good for longer than Refresh")
		}

		for name, spoil := range map[string]func() error{
			"emptied": func() error { return os.WriteFile(path, nil, 0o640) },
			"removed": func() error { return errors.Join(os.Remove(path), os.Remove(operators(path))) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(token.Refresh)
			if good(f, "third-token") || good(f, "") || f.Ready() == nil {
				t.Fatalf("%s: a token is admitted, want none, and not ready", name)
			}
			write(t, path, "third-token")
			if !good(f, "third-token") || f.Ready() != nil {
				t.Fatalf("%s: the token is not good once it is back", name)
			}
		}
	})
}

func TestCheckDoesNotAllocate(t *testing.T) {
	f, _ := open(t, "0123456789abcdef0123456789abcdef0123456789abcdef")
	if n := testing.AllocsPerRun(100, func() { good(f, "0123456789abcdef0123456789abcdef0123456789abcdef") }); n != 0 {
		t.Fatalf("%v allocations, want none", n)
	}
}

// An operator replaces the token with an editor, with mv or with rm: the gateway's name still leads to the old file.
func TestReplacedFilesAreNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, replace := range map[string]func(path string) error{
			"mv or sed -i": func(path string) error {
				return errors.Join(os.WriteFile(path+".new", []byte("new-token"), 0o640), os.Rename(path+".new", operators(path)))
			},
			"rm": func(path string) error { return os.Remove(operators(path)) },
		} {
			changes.Store(0)
			f, path := open(t, "old-token")
			if err := replace(path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(token.Refresh)
			if good(f, "old-token") || good(f, "new-token") || f.Ready() == nil {
				t.Errorf("%s: old token %v, new token %v, ready %v, want nobody admitted", name, good(f, "old-token"), good(f, "new-token"), f.Ready())
			}
			if changes.Load() != 0 {
				t.Errorf("%s: a token that isn't known passes for changed", name)
			}
			// The reconciler gives the gateway the operator's file.
			if err := errors.Join(os.RemoveAll(operators(path)), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
			write(t, path, "new-token")
			if !good(f, "new-token") || good(f, "old-token") || f.Ready() != nil {
				t.Errorf("%s: new token %v, old token %v, ready %v, want the new one alone", name, good(f, "new-token"), good(f, "old-token"), f.Ready())
			}
			if changes.Load() != 1 {
				t.Errorf("%s: told of %d changes, want 1", name, changes.Load())
			}
		}
	})
}

// good says whether a text is the file's token.
func good(f *token.File, text string) bool {
	_, err := f.Authenticate(text)
	return err == nil
}
