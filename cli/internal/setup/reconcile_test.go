package setup

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/uds"
)

// reconcile runs Reconcile until the test ends or the stop that it returns is called.
func reconcile(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Reconcile(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v, want no error", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 15*time.Second {
			t.Fatal("not within 15s: " + what)
		}
	}
}

// The engine makes the folders anew as root's after a reboot.
func TestReconcileHealsSocketFolders(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	for _, dir := range []string{cfg.EgressSockets, cfg.CapabilitySockets} {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	reconcile(t, cfg)
	for _, dir := range []string{cfg.EgressSockets, cfg.CapabilitySockets} {
		until(t, dir+" isn't the services' again", func() bool {
			var st unix.Stat_t
			_, err := uds.ReadMark(dir)
			return unix.Stat(dir, &st) == nil && st.Uid == serviceID && st.Gid == socketGID && err == nil
		})
	}
}

// The gateway's token is the operator's file, however that is replaced.
func TestReconcileSharesAReplacedToken(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	path := filepath.Join(cfg.Home, "user_data/settings/api_token")
	shared := filepath.Join(cfg.Home, "user_data/settings/gateway/api_token")
	same := func() bool {
		var a, b unix.Stat_t
		return unix.Stat(path, &a) == nil && unix.Stat(shared, &b) == nil && a.Ino == b.Ino && a.Nlink == 2 &&
			a.Mode&0o7777 == 0o640 && a.Uid == serviceID && a.Gid == operatorGID
	}
	if !same() {
		t.Fatal("init doesn't share the token")
	}
	stop := reconcile(t, cfg)
	for _, command := range []string{
		"echo one >user_data/settings/api_token",
		"echo two >t && chmod 644 t && mv t user_data/settings/api_token",
		"sed -i s/two/three/ user_data/settings/api_token",
		"cp -p user_data/settings/api_token t && rm user_data/settings/api_token && mv t user_data/settings/api_token",
	} {
		if out, err := as(0, 0, cfg.Home, command); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		until(t, command+": the gateway's token is not the operator's", func() bool {
			got, err := os.ReadFile(shared)
			return err == nil && string(got) == string(want) && same()
		})
	}
	// Moved aside or made something else: the old file still has two names, and the gateway must not go on with it.
	for _, command := range []string{
		"mv user_data/settings/api_token user_data/settings/old",
		"mv user_data/settings/api_token user_data/settings/old && ln -s old user_data/settings/api_token",
		"mv user_data/settings/api_token user_data/settings/old && mkdir user_data/settings/api_token",
		"mv user_data/settings/api_token user_data/settings/old && mkfifo user_data/settings/api_token",
	} {
		if out, err := as(0, 0, cfg.Home, command); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		until(t, command+": the gateway still has the token", func() bool {
			_, err := os.Lstat(shared)
			return errors.Is(err, fs.ErrNotExist)
		})
		if out, err := as(0, 0, cfg.Home, "rm -rf user_data/settings/api_token && mv user_data/settings/old user_data/settings/api_token"); err != nil {
			t.Fatalf("putting the token back: %v\n%s", err, out)
		}
		until(t, command+": the token that was put back is not the gateway's", same)
	}
	// Removed: the gateway's file has one name, which it doesn't believe, until init makes another.
	stop()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	run(t, cfg)
	if !same() {
		t.Error("init made a token and didn't share it")
	}
}

func TestSecondHomeIsRefusedWhileTheFirstRuns(t *testing.T) {
	first, second := newHome(t), newHome(t)
	second.EgressSockets, second.CapabilitySockets = first.EgressSockets, first.CapabilitySockets
	run(t, first)
	stop := reconcile(t, first)
	until(t, "the first suite doesn't hold its folder", func() bool {
		lock, err := uds.Vacate(first.CapabilitySockets)
		if err == nil {
			lock.Close()
		}
		return errors.Is(err, uds.ErrLocked)
	})
	socket := filepath.Join(first.EgressSockets, uds.DirName("forecast"), "of-the-first")
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, first.EgressSockets)
	err := Run(second, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "RUMI_RUN_DIR=/run/rumi-") {
		t.Fatalf("a second home in the run folder of one that runs: %v, want what to type", err)
	}
	if after := snapshot(t, first.EgressSockets); after != before {
		t.Errorf("another home's folder was changed from\n%sto\n%s", before, after)
	}

	stop() // the first suite is down: what it left is put aside, and comes back with it
	run(t, second)
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the second home has the first one's sockets")
	}
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	aside, err := filepath.Glob(filepath.Join(first.EgressSockets, asidePrefix+"*", "*", "of-the-first"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("put aside: %v, %v, want the first home's socket", aside, err)
	}
	was := inode(aside[0])
	run(t, first)
	if got := inode(socket); got != was {
		t.Errorf("the first home got back inode %d, want %d", got, was)
	}
}
