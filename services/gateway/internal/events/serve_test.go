package events

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/fault"
)

// bubble runs a test under virtual time, with a gateway and writers in a folder.
func bubble(t *testing.T, test func(t *testing.T, dir string, g *gateway, w *writers)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(12 * time.Hour)
		w := newWriters(t, dir, 1)
		defer w.close()
		g := startGateway(t, dir)
		defer g.end()
		test(t, dir, g, w)
	})
}

// begun is a client that has a cursor.
func begun(t *testing.T, g *gateway, query auditfile.Query) *client {
	t.Helper()
	c := newClient(t, query)
	if err := c.follow(g, 1<<20, func() bool { return c.id != "" }); err != nil {
		t.Fatal(err)
	}
	return c
}

// catchUp follows until there are as many events.
func (c *client) catchUp(g *gateway, events int) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	if err := c.follow(g, 1<<30, func() bool { return len(c.events)+len(c.gaps) >= events || time.Now().After(deadline) }); err != nil {
		c.t.Fatal(err)
	}
	if got := len(c.events) + len(c.gaps); got != events {
		c.t.Fatalf("%d events came, want %d: %v", got, events, c.requests())
	}
}

func TestStreamBeginsNow(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, w *writers) {
		w.write()
		c := begun(t, g, auditfile.Query{})
		w.write()
		c.catchUp(g, 1)
		if got := c.requests(); !slices.Equal(got, []string{"R00001"}) {
			t.Errorf("the entries %v came, want the one that was written after the beginning", got)
		}
	})
}

func TestStreamBeginsAtSince(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, w *writers) {
		w.write()
		time.Sleep(26 * time.Hour)
		since := time.Now()
		w.write()
		time.Sleep(48 * time.Hour)
		w.write()
		c := newClient(t, auditfile.Query{Since: since.Format(time.RFC3339)})
		c.catchUp(g, 2)
		if got := c.requests(); !slices.Equal(got, []string{"R00001", "R00002"}) {
			t.Errorf("the entries %v came, want those since then", got)
		}
	})
}

// Files that retention has removed are a gap, and what is there goes on.
func TestGapOfRemovedDays(t *testing.T) {
	bubble(t, func(t *testing.T, dir string, g *gateway, w *writers) {
		w.write()
		c := begun(t, g, auditfile.Query{})
		w.write()
		c.catchUp(g, 1)
		for range 4 {
			time.Sleep(24 * time.Hour)
			w.write()
		}
		for _, f := range globbed(t, dir, "*_2000-01-0[123].jsonl") {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		c.catchUp(g, 4)
		if len(c.gaps) != 1 || c.gaps[0].Action != "events_missing" || !strings.Contains(c.gaps[0].data, `"reason":"removed"`) ||
			!strings.Contains(c.gaps[0].data, `"from":"2000-01-01"`) || !strings.Contains(c.gaps[0].data, `"until":"2000-01-04"`) {
			t.Errorf("the gaps are %v, want one from 2000-01-01 until 2000-01-04", c.gaps)
		}
		if got := c.requests(); !slices.Equal(got, []string{"R00001", "R00004", "R00005"}) {
			t.Errorf("the entries %v came, want those that are left", got)
		}
		again := newClient(t, auditfile.Query{})
		again.id = c.gaps[0].id
		again.catchUp(g, 2)
		if len(again.gaps) > 0 {
			t.Errorf("the gap is told a second time after its own cursor: %v", again.gaps)
		}
	})
}

func globbed(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

// The operator may rotate a file by renaming it: who follows misses nothing, and whose cursor is of the renamed one is told.
func TestRotationByRenaming(t *testing.T) {
	bubble(t, func(t *testing.T, dir string, g *gateway, w *writers) {
		behind := begun(t, g, auditfile.Query{})
		w.write()
		behind.catchUp(g, 1)
		following := newClient(t, auditfile.Query{})
		following.id = behind.id
		end := time.Now().Add(10 * time.Second)
		var done sync.WaitGroup
		done.Go(func() {
			if err := following.follow(g, 1<<30, func() bool { return !time.Now().Before(end) }); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		file := filepath.Join(dir, w.written[0].Category+"_2000-01-01.jsonl")
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			w.write()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Until(end))
		w.write() // ends the waiting
		done.Wait()
		if want := w.wanted(t, auditfile.Query{})[1:31]; !slices.Equal(slices.Sorted(slices.Values(following.requests())), want) || len(following.gaps) > 0 {
			t.Errorf("who follows gets %v with the gaps %v, want %v and none", following.requests(), following.gaps, want)
		}
		behind.catchUp(g, len(w.written)+1)
		if len(behind.gaps) != 1 || !strings.Contains(behind.gaps[0].data, `"reason":"replaced"`) {
			t.Errorf("the gaps of who was away are %v, want one of a replaced file", behind.gaps)
		}
	})
}

// Whose file is cut in its place, as copytruncate does, is told so when he connects again, and gets what is in it then.
func TestFileThatIsCutInPlace(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(12 * time.Hour)
		w := newWriters(t, dir, 1)
		defer w.close()
		g := startGateway(t, dir)
		c := begun(t, g, auditfile.Query{})
		w.write()
		c.catchUp(g, 1)
		var done sync.WaitGroup
		done.Go(func() {
			if err := c.follow(g, 1<<30, func() bool { return false }); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		if err := os.Truncate(filepath.Join(dir, w.written[0].Category+"_2000-01-01.jsonl"), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		done.Wait() // the stream has ended
		if got := testutil.ToFloat64(g.metrics.ended.WithLabelValues(string(failed))); got != 1 {
			t.Errorf("%v streams ended because the log could not be read, want this one", got)
		}
		g.kill()
		g.done.Wait()
		g = startGateway(t, dir)
		defer g.end()
		w.write()
		c.catchUp(g, 3)
		if len(c.gaps) != 1 || !strings.Contains(c.gaps[0].data, `"reason":"replaced"`) {
			t.Errorf("the gaps are %v, want one of a replaced file", c.gaps)
		}
	})
}

// A stream that is under way goes on over the compression of the file that it reads.
func TestCompressionWhileFollowing(t *testing.T) {
	bubble(t, func(t *testing.T, dir string, g *gateway, w *writers) {
		c := begun(t, g, auditfile.Query{})
		for range 200 {
			w.write()
		}
		time.Sleep(24 * time.Hour)
		w.write()
		if err := c.follow(g, 9_000, func() bool { return false }); err != nil {
			t.Fatal(err)
		}
		if n := len(c.events); n == 0 || n > 100 {
			t.Fatalf("%d events came over a connection that broke early, want some", n)
		}
		waiting := newClient(t, auditfile.Query{})
		waiting.id = c.id
		var done sync.WaitGroup
		done.Go(func() { waiting.catchUp(g, 204-len(c.events)) })
		time.Sleep(time.Second)
		if pack(t, dir, today()) == 0 {
			t.Error("nothing was compressed")
		}
		time.Sleep(3 * time.Second)
		category, _ := audit.ParseCategory(w.written[0].Category)
		w.late(category, w.written[0]) // it begins a plain file beside the compressed one
		w.write()
		w.write()
		done.Wait()
		c.catchUp(g, 204)
		if got, want := len(slices.Compact(slices.Sorted(slices.Values(c.requests())))), 203; got != want {
			t.Errorf("%d different entries came, want %d", got, want)
		}
	})
}

// A client with a rare filter is given cursors on the way, so that it doesn't begin anew.
func TestCursorAdvancesPastOthersEntries(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, w *writers) {
		c := begun(t, g, auditfile.Query{RequestID: "none"})
		first := c.id
		w.write()
		began := time.Now()
		if err := c.follow(g, 1<<20, func() bool { return time.Since(began) > 20*time.Second }); err != nil {
			t.Fatal(err)
		}
		if c.id == first {
			t.Errorf("the cursor stays as it was for 20 s, want it to go past the entry that wasn't asked for")
		}
		all := newClient(t, auditfile.Query{})
		all.id = c.id
		w.write()
		all.catchUp(g, 1)
		if got := all.requests(); !slices.Equal(got, []string{"R00001"}) {
			t.Errorf("after that cursor the entries %v come, want the second one", got)
		}
	})
}

func TestScopesAreComparedWithEachEntry(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, w *writers) {
		c := newClient(t, auditfile.Query{})
		c.visible = func(pack string) bool { return pack == "a" }
		if err := c.follow(g, 1<<20, func() bool { return c.id != "" }); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			w.write()
		}
		want := w.wanted(t, auditfile.Query{PackID: "a"})
		c.catchUp(g, len(want))
		checkOnce(t, c, want)
	})
}

func TestRefusedCursors(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, _ *writers) {
		for name, cursor := range map[string]string{
			"garbage": "garbage", "of audit": auditfile.Cursor{Kind: auditfile.Back, Day: today()}.String(),
			"of the future": auditfile.Cursor{Kind: auditfile.Forward, Day: today() + 2}.String(),
		} {
			c := newClient(t, auditfile.Query{})
			c.id = cursor
			if err := c.follow(g, 1<<20, func() bool { return false }); !fault.Is(err, fault.KindInvalid) || fault.Of(err).Code != "invalid_cursor" {
				t.Errorf("%s: %v, want invalid_cursor", name, err)
			}
		}
		c := newClient(t, auditfile.Query{Category: "nothing"})
		if err := c.follow(g, 1<<20, func() bool { return false }); !fault.Is(err, fault.KindInvalid) {
			t.Errorf("a wrong filter: %v, want it to be invalid", err)
		}
	})
}

func TestHeadOpensNoStream(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, _ *writers) {
		w := httptest.NewRecorder()
		if err := g.Serve(w, httptest.NewRequest(http.MethodHead, "/api/events", nil), Request{}); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("Content-Type"); w.Code != 200 || got != "text/event-stream" || w.Body.Len() > 0 {
			t.Errorf("HEAD is answered %d %s, with %d bytes; want 200, the type of streams, and none", w.Code, got, w.Body.Len())
		}
	})
}

func TestStreamsAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, _ *writers) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		open := func(who string) {
			running.Go(func() {
				r := httptest.NewRequest(http.MethodGet, "/api/events", nil).WithContext(ctx)
				if err := g.Serve(httptest.NewRecorder(), r, Request{Who: who}); err != nil {
					t.Error(err)
				}
			})
		}
		for range maxOfOne {
			open("x")
		}
		synctest.Wait()
		refused := func(who string) {
			t.Helper()
			err := g.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/api/events", nil), Request{Who: who})
			if !fault.Is(err, fault.KindLimited) || fault.Of(err).Code != "too_many_streams" {
				t.Errorf("one stream more: %v, want too_many_streams", err)
			}
		}
		refused("x")
		for i := range maxStreams - maxOfOne {
			open(string(rune('A' + i/maxOfOne)))
		}
		synctest.Wait()
		if got := testutil.ToFloat64(g.metrics.streams); got != maxStreams {
			t.Errorf("%v streams are counted, want %d", got, maxStreams)
		}
		refused("another")
		cancel()
		running.Wait()
		if got := testutil.ToFloat64(g.metrics.streams); got != 0 {
			t.Errorf("%v streams are counted after their end, want 0", got)
		}
		if got := testutil.ToFloat64(g.metrics.ended.WithLabelValues("client")); got != maxStreams {
			t.Errorf("%v streams are counted as left by their clients, want %d", got, maxStreams)
		}
	})
}

// What streams hold open is given back.
func TestNothingStaysOpen(t *testing.T) {
	bubble(t, func(t *testing.T, _ string, g *gateway, w *writers) {
		for range 20 {
			w.write()
		}
		for range 3 {
			c := newClient(t, auditfile.Query{Since: "2000-01-01"})
			c.catchUp(g, 20)
			synctest.Wait()
		}
		g.log.mu.Lock()
		defer g.log.mu.Unlock()
		if n := len(g.log.files); n > 0 {
			t.Errorf("%d files are open without a stream, want none", n)
		}
	})
}
