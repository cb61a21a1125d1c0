package reread_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/reread"
)

func TestValue(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	bad := errors.New("bad")
	read := func() (string, error) {
		first, err := os.ReadFile(a)
		second, err2 := os.ReadFile(b)
		if text := string(first) + string(second); text != "bad" {
			return text, errors.Join(err, err2)
		}
		return "", bad
	}
	synctest.Test(t, func(t *testing.T) {
		var reports []error
		if _, err := reread.Open([]string{a, b}, read, nil); err == nil {
			t.Fatal("missing files were read, want an error")
		}
		write(a, "1")
		write(b, "2")
		value, err := reread.Open([]string{a, b}, read, func(_ string, err error) { reports = append(reports, err) })
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want string, wantErr error, reported int) {
			t.Helper()
			time.Sleep(reread.Refresh)
			got, err := value.Get()
			if got != want || !errors.Is(err, wantErr) || len(reports) != reported {
				t.Errorf("the value is %q, %v after %d reports; want %q, %v after %d", got, err, len(reports), want, wantErr, reported)
			}
		}
		expect("12", nil, 0)
		write(b, "3")
		if got, _ := value.Get(); got != "12" {
			t.Errorf("the files were read again before Refresh: %q", got)
		}
		expect("13", nil, 1)
		write(a, "ba")
		write(b, "d")
		expect("13", bad, 2)
		write(b, "d") // another file, the same problem
		expect("13", bad, 2)
		if err := os.Remove(a); err != nil {
			t.Fatal(err)
		}
		expect("13", os.ErrNotExist, 3)
		expect("13", os.ErrNotExist, 3)
		write(a, "4")
		expect("4d", nil, 4)
	})
}
