package keyset_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/keyset"
)

func TestCreatedKeyDecryptsAfterReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets_key")
	if err := keyset.Create(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	first, err := keyset.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := first.Encrypt([]byte("value"), []byte("KEY"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyset.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Decrypt(sealed, []byte("KEY")); err != nil || string(got) != "value" {
		t.Fatalf("decrypted %q, %v; want value", got, err)
	}
	if _, err := again.Decrypt(sealed, []byte("OTHER")); err == nil {
		t.Fatal("decrypted under another key's name")
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets_key")
	if err := keyset.Create(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := keyset.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second Create: %v; want ErrExist", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Fatal("the key was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the folder has %v, %v; want the key alone", entries, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := keyset.Create(good); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"missing", func(string) error { return nil }, "docker compose up --detach"},
		{"readable by the group", func(p string) error { return writeMode(p, key, 0o640) }, "chmod 600"},
		{"readable by others", func(p string) error { return writeMode(p, key, 0o604) }, "chmod 600"},
		{"empty", func(p string) error { return writeMode(p, nil, 0o600) }, "no keyset"},
		{"half", func(p string) error { return writeMode(p, key[:len(key)/2], 0o600) }, "no keyset"},
		{"not JSON", func(p string) error { return writeMode(p, []byte("hunter2"), 0o600) }, "no keyset"},
		{"huge", func(p string) error { return writeMode(p, bytes.Repeat([]byte{' '}, 65<<10), 0o600) }, "larger than"},
		{"FIFO", func(p string) error { return syscall.Mkfifo(p, 0o600) }, "regular file"},
		{"folder", func(p string) error { return os.Mkdir(p, 0o700) }, "regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets_key")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			_, err := keyset.Load(path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v; want an error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Fatal("the error quotes the file")
			}
		})
	}
}

func writeMode(path string, data []byte, mode os.FileMode) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
