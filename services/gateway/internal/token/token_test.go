package token_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, text string) (*token.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api_token")
	write(t, path, text)
	f, err := token.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

func TestCheck(t *testing.T) {
	const right = "0123456789abcdef"
	f, _ := open(t, right+"\n")
	for presented, want := range map[string]bool{
		right: true, "": false, right + "\n": false, right + "\x00": false, right[:15]: false, right + "0": false,
		strings.ToUpper(right): false, " " + right: false, strings.Repeat("a", 512): false, strings.Repeat("a", 100_000): false,
	} {
		if got := f.Check(presented); got != want {
			t.Errorf("Check(%.40q) = %v, want %v", presented, got, want)
		}
	}
}

func TestLongestToken(t *testing.T) {
	longest := strings.Repeat("a", 512)
	f, _ := open(t, longest)
	if !f.Check(longest) || f.Check(longest[:511]) {
		t.Fatal("a token of 512 bytes is not told from one of 511")
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "blank": " \n", "two words": "hunter2 b", "long": strings.Repeat("a", 513), "not ASCII": "hunter2é", "NUL": "hunter2\x00"} {
		path := filepath.Join(t.TempDir(), "api_token")
		write(t, path, text)
		if _, err := token.Open(path, slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := token.Open(filepath.Join(t.TempDir(), "api_token"), nil); err == nil || !strings.Contains(err.Error(), "rumi init") {
		t.Errorf("missing: %v", err)
	}
}

func TestReplacedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := open(t, "first-token")
		write(t, path, "second-token")
		if !f.Check("second-token") {
			t.Fatal("the new token is not good at once")
		}
		if f.Check("first-token") {
			t.Fatal("the old token is good after the new one was seen")
		}
		write(t, path, "third-token")
		time.Sleep(token.Refresh)
		if f.Check("second-token") {
			t.Fatal("the old token is good for longer than Refresh")
		}

		for name, spoil := range map[string]func() error{
			"emptied": func() error { return os.WriteFile(path, nil, 0o640) },
			"removed": func() error { return os.Remove(path) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(token.Refresh)
			if f.Check("third-token") || f.Check("") || f.Ready() == nil {
				t.Fatalf("%s: somebody is admitted", name)
			}
			write(t, path, "third-token")
			if !f.Check("third-token") || f.Ready() != nil {
				t.Fatalf("%s: the token is not good once it is back", name)
			}
		}
	})
}

func TestCheckDoesNotAllocate(t *testing.T) {
	f, _ := open(t, "0123456789abcdef0123456789abcdef0123456789abcdef")
	if n := testing.AllocsPerRun(100, func() { f.Check("0123456789abcdef0123456789abcdef0123456789abcdef") }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
