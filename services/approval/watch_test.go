package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// A scan sees everything that was done before it was asked for, however little of it there is to read: nothing here waits
// for the watcher.
func TestAScanSeesWhatWasDoneBeforeIt(t *testing.T) {
	w := start(t)
	ids := []string{"a", "b", "c"}
	for _, id := range ids {
		w.pack(id)
	}
	outside := filepath.Join(w.Home, "elsewhere.py")
	w.check(os.Link(filepath.Join(w.Ecosystem(), "c/backend/main.py"), outside))
	for i := range 20 {
		for _, id := range ids {
			w.approve(id)
		}
		w.check(w.client.Refresh(t.Context()))
		w.check(w.client.Refresh(t.Context()))
		for _, id := range ids {
			if s := w.status(id); s != "approved" {
				t.Fatalf("%s is %s; want approved", id, s)
			}
		}
		w.write(filepath.Join(w.Ecosystem(), "a/backend/main.py"), fmt.Sprintf("print(%d)", i))
		w.check(os.Mkdir(filepath.Join(w.Ecosystem(), fmt.Sprintf("b/empty/%d", i)), 0o755))
		w.write(outside, fmt.Sprintf("print(%d)", i))
		w.check(w.client.Refresh(t.Context()))
		for _, id := range ids {
			if s := w.status(id); s != "modified" {
				t.Fatalf("%s changed before the scan, and is %s; want modified", id, s)
			}
		}
	}
}

// A record that somebody else changed is looked at again though nothing happened to the folder.
func TestAScanAfterARejectionOfTheSameBytes(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	w.approve("demo")
	w.check(w.client.Refresh(t.Context()))
	_, err := w.call("POST", "/api/packs/demo/reject", nil)
	w.check(err)
	w.check(w.client.Refresh(t.Context()))
	w.approve("demo")
	w.check(w.client.Refresh(t.Context()))
	w.write(filepath.Join(dir, "backend/main.py"), "print('x')")
	w.check(w.client.Refresh(t.Context()))
	if s := w.status("demo"); s != "modified" {
		t.Errorf("status %s; want modified", s)
	}
}

// synced is a buffer that several may write to.
type synced struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// Where the kernel's limit leaves packs unwatched they are looked at in turns: that is said once and can be measured, and a change is
// noticed long before the look at intervals.
func TestChangesAreNoticedBeyondTheLimitOfWatches(t *testing.T) {
	w := start(t)
	w.check(w.server.Stop())
	log := &synced{}
	w.server = servicetest.Start(w.Suite, "approval", func(ctx context.Context, rt *service.Runtime, cfg config) error {
		cfg.watches = 9 // the ecosystem folder and two packs of four folders
		rt.Log = slog.New(slog.NewTextHandler(log, nil))
		return build(ctx, rt, cfg)
	}, map[string]string{"RUMI_ECOSYSTEM": w.Ecosystem(), "RUMI_VERIFY_INTERVAL": "1h"})
	w.client = api.NewClient(w.Peer("pack-registry", "approval"))
	const packs = 6
	for i := range packs {
		id := fmt.Sprintf("p%d", i)
		w.pack(id)
		_, err := w.call("POST", "/api/packs/"+id+"/approve", nil)
		w.check(err)
	}
	if n := strings.Count(log.String(), "cannot watch every pack"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log)
	}
	w.eventually("four packs are counted as unwatched", func() bool { return w.metric("rumi_approval_unwatched_packs") == "4" })
	for i := range packs {
		w.write(filepath.Join(w.Ecosystem(), fmt.Sprintf("p%d/backend/main.py", i)), "print('changed')")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		modified := 0
		for i := range packs {
			if w.status(fmt.Sprintf("p%d", i)) == "modified" {
				modified++
			}
		}
		if modified == packs {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d changes were noticed; want not time.Now().After(end)", modified, packs)
		}
	}
}

// metric is the value of one without labels.
func (w *world) metric(name string) string {
	w.t.Helper()
	response, err := http.Get("http://" + w.server.Admin + "/metrics")
	w.check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.check(err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "no"
}

// A pack that can't be dealt with leaves the others to lose their right to run all the same.
func TestOnePackThatFailsHoldsUpNoOther(t *testing.T) {
	w := start(t)
	ids := []string{"a-stuck"}
	for i := range 12 {
		ids = append(ids, fmt.Sprintf("p%02d", i))
	}
	for _, id := range ids {
		w.pack(id)
		w.approve(id)
	}
	db, err := sql.Open("sqlite", filepath.Join(w.UserData(), "state/approval.db"))
	w.check(err)
	defer db.Close()
	_, err = db.Exec(`CREATE TRIGGER stuck BEFORE UPDATE ON records WHEN NEW.pack_id = 'a-stuck' BEGIN SELECT RAISE(ABORT, 'stuck'); END`)
	w.check(err)
	for _, id := range ids {
		w.write(filepath.Join(w.Ecosystem(), id, "backend/main.py"), "print('changed')")
	}
	if err := w.client.Refresh(t.Context(), ids...); err == nil {
		t.Error("a refresh that failed says nothing")
	}
	for _, id := range ids[1:] {
		if s := w.status(id); s != "modified" {
			t.Errorf("%s is %s; want modified", id, s)
		}
	}
}

// A page that has yet to be written back can be written through a mapping without a trace in the file's times; the end of the
// mapping gives it away.
func TestAMappingLeavesNoTimes(t *testing.T) {
	w := start(t)
	path := filepath.Join(w.pack("demo"), "backend/main.py")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	w.check(err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	w.check(err)
	w.check(f.Close())
	mapped[0] = 'x'
	time.Sleep(50 * time.Millisecond) // so that the approval below takes the times for old enough
	w.approve("demo")
	w.check(w.client.Refresh(t.Context(), "demo"))
	mapped[0] = 'y'
	w.check(unix.Munmap(mapped))
	w.eventually("the change is noticed", func() bool { return w.status("demo") == "modified" })
}
