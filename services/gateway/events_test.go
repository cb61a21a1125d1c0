package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/api/client"
	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/service"
)

// replica starts one more gateway of a world.
func (w *world) replica(t *testing.T) (address string, stop func()) {
	t.Helper()
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	environ := append(w.Environ("gateway"), "RUMI_API_RATE_LIMIT=0", "RUMI_LOG_LEVEL=error")
	rt, err := service.Start(context.Background(), "gateway", build, service.Options{Environ: environ, API: listeners[0], Admin: listeners[1], Logs: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := rt.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return listeners[0].Addr().String(), stop
}

// entries writes entries as the services do, until ctx ends; it returns their request ids.
func (w *world) entries(ctx context.Context, t *testing.T, pause time.Duration) []string {
	t.Helper()
	log, err := audit.Open(filepath.Join(w.UserData(), "audit"), "approval", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer log.Close()
	var written []string
	for ctx.Err() == nil {
		id := fmt.Sprintf("TEST%06d", len(written))
		category := []audit.Category{audit.Approval, audit.Network, audit.Permission}[len(written)%3]
		if err := log.Write(origin.With(t.Context(), origin.Origin{RequestID: id, Actor: "writer"}),
			audit.Entry{Category: category, Action: "x_done", Success: true, OwnerPack: []string{"a", "b"}[len(written)/3%2]}); err != nil {
			t.Error(err)
		}
		written = append(written, id)
		time.Sleep(pause)
	}
	return written
}

func followClient(t *testing.T, address, token string) *client.Client {
	t.Helper()
	c, err := client.New("http://"+address, client.Token(token), client.HTTP(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// While services write, gateways come and go, and connections break: a client that goes on with its last cursor at whichever gateway gets each entry
// once.
func TestEventsOverRestarts(t *testing.T) {
	w := newWorld(t, nil)
	random := rand.New(rand.NewPCG(1, 1))
	request := api.EventsRequest{Actor: "writer", Since: time.Now().Add(-time.Second).UTC().Format(time.RFC3339)}
	writing, stop := context.WithCancel(t.Context())
	var written []string
	var writer sync.WaitGroup
	writer.Go(func() { written = w.entries(writing, t, 2*time.Millisecond) })
	var got []string
	take := func(address string, until time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), until)
		defer cancel()
		for event, err := range followClient(t, address, apiToken).Gateway.FollowEvents(ctx, request) {
			if err != nil {
				return // the time is over, or the gateway has gone
			}
			if event.Name == "gap" {
				t.Errorf("a gap: %+v", event)
			}
			got, request.Cursor = append(got, event.RequestID), event.ID
		}
	}
	for range 6 {
		address, end := w.replica(t)
		time.AfterFunc(time.Duration(100+random.IntN(400))*time.Millisecond, end)
		take(address, time.Duration(100+random.IntN(500))*time.Millisecond)
		take(w.address, time.Duration(50+random.IntN(200))*time.Millisecond)
	}
	stop()
	writer.Wait()
	for deadline := time.Now().Add(10 * time.Second); len(got) < len(written) && time.Now().Before(deadline); {
		take(w.address, time.Second)
	}
	slices.Sort(got)
	if !slices.Equal(got, written) || len(written) < 100 {
		t.Errorf("%d entries came, want each of %d once", len(got), len(written))
	}
}

// A gateway that stops ends its streams at once, in order: it doesn't wait for them.
func TestStoppingGatewayEndsStreams(t *testing.T) {
	w := newWorld(t, nil)
	address, stop := w.replica(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	began := time.Now()
	go stop()
	var text strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := response.Body.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v, want its end", err)
			}
			break
		}
	}
	if took := time.Since(began); took > 800*time.Millisecond || !strings.Contains(text.String(), ": this gateway stops") {
		t.Errorf("the stream ended after %v with %q, want it at once, with a comment", took, text.String())
	}
}

// A stream ends when its token is revoked, and shows no more than the token's scopes.
func TestEventsOfATokenForSomePacks(t *testing.T) {
	w := newWorld(t, nil)
	token := w.issue(t, `{"name": "dashboard", "role": "viewer", "scopes": [{"verbs": ["audit.read"], "packs": ["a"]}]}`)
	writing, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() { w.entries(writing, t, 5*time.Millisecond) })
	defer writer.Wait()
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var revoked time.Time
	n := 0
	for event, err := range followClient(t, w.address, token.Token).Gateway.FollowEvents(ctx, api.EventsRequest{}) {
		if err != nil {
			break
		}
		if event.OwnerPack != "a" {
			t.Fatalf("an entry of %q came, want those of a only: %+v", event.OwnerPack, event)
		}
		if n++; n == 20 {
			revoked = time.Now()
			w.do(t, "DELETE", "/api/tokens/"+token.Metadata.ID, nil, nil)
		}
	}
	if took := time.Since(revoked); n < 20 || took > time.Second {
		t.Errorf("%d events came, the last one %v after the token was revoked; want 20 or more, within a second", n, took)
	}
}

// Clients that read nothing cost the gateway no memory, however much is written.
func TestClientsThatReadNothing(t *testing.T) {
	w := newWorld(t, nil)
	for range 16 {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(head("GET /api/events?actor=writer&since=2020-01-01")); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	written := w.entries(ctx, t, 0)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 24<<20 {
		t.Errorf("%d entries for 16 clients that read nothing took %d MiB, want at most 24", len(written), grown>>20)
	}
}
