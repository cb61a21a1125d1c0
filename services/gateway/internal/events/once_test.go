package events

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
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

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/origin"
)

// gateway is a Server with its Log, in a folder that others write to.
type gateway struct {
	*Server
	t    testing.TB
	kill context.CancelFunc
	stop chan struct{}
	done sync.WaitGroup
}

func startGateway(t testing.TB, dir string) *gateway {
	t.Helper()
	ctx, kill := context.WithCancel(context.Background())
	log := NewLog(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	g := &gateway{t: t, kill: kill, stop: make(chan struct{})}
	g.Server = New(log, NewMetrics(prometheus.NewRegistry()), g.stop)
	g.done.Go(func() { _ = log.Run(ctx) })
	return g
}

func (g *gateway) end() {
	g.kill()
	g.done.Wait()
	if n := testutil.ToFloat64(g.metrics.ended.WithLabelValues(string(failed))); n > 0 {
		g.t.Errorf("%v streams ended because the log could not be read, want none", n)
	}
}

// pipeWriter is a connection to a client in memory.
type pipeWriter struct {
	*io.PipeWriter
	header http.Header
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) WriteHeader(int)     {}
func (w *pipeWriter) FlushError() error   { return nil }

// received is an event as a client has read it.
type received struct {
	id, name, data string
	api.Event
}

// client follows the events over many connections, each with the cursor of the last event that it has read whole.
type client struct {
	t       *testing.T
	query   auditfile.Query
	visible func(string) bool
	id      string

	events []received
	gaps   []received
}

func newClient(t *testing.T, query auditfile.Query) *client {
	return &client{t: t, query: query, visible: func(string) bool { return true }}
}

// follow reads from a gateway until wanted says that it is enough, or limit bytes were read: a connection may break anywhere. The error is the answer's.
func (c *client) follow(g *gateway, limit int64, wanted func() bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := httptest.NewRequest("GET", "/api/events", nil).WithContext(ctx)
	from, to := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := g.Serve(&pipeWriter{to, http.Header{}}, r, Request{Query: c.query, Cursor: c.id, Who: "x", Visible: c.visible})
		to.CloseWithError(io.EOF)
		failed <- err
	}()
	c.read(io.LimitReader(from, limit), wanted)
	from.Close()
	cancel()
	return <-failed
}

// read parses events (WHATWG HTML, section 9.2.6).
func (c *client) read(from io.Reader, wanted func() bool) {
	lines := bufio.NewReader(from)
	var next received
	for !wanted() {
		text, err := lines.ReadString('\n')
		if err != nil {
			return // what came of an event without its end counts for nothing
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(text, "\n"), ": ")
		switch field {
		case "id":
			next.id = value
		case "event":
			next.name = value
		case "data":
			next.data = value
		case "":
			if text == "\n" {
				c.dispatch(next)
				next = received{}
			}
		}
	}
}

func (c *client) dispatch(next received) {
	if next.id != "" {
		c.id = next.id
	}
	if next.data == "" {
		return
	}
	if err := json.Unmarshal([]byte(next.data), &next.Event); err != nil {
		c.t.Errorf("the data %q is no JSON: %v", next.data, err)
	}
	if next.name == "gap" {
		c.gaps = append(c.gaps, next)
		return
	}
	if next.name != next.Category {
		c.t.Errorf("the event %s has an entry of %s", next.name, next.Category)
	}
	c.events = append(c.events, next)
}

func (c *client) requests() []string {
	var all []string
	for _, e := range c.events {
		all = append(all, e.RequestID)
	}
	return all
}

// writers write entries, all with a number of their own.
type writers struct {
	t    *testing.T
	dir  string
	logs []*audit.Log

	mu      sync.Mutex
	random  *rand.Rand
	written []api.Event
}

func newWriters(t *testing.T, dir string, seed uint64) *writers {
	t.Helper()
	w := &writers{t: t, dir: dir, random: rand.New(rand.NewPCG(seed, 1))}
	for _, name := range []string{"approval", "egress-proxy"} {
		log, err := audit.Open(dir, name, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		w.logs = append(w.logs, log)
	}
	return w
}

func (w *writers) close() {
	for _, log := range w.logs {
		if err := log.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

var usedCategories = []audit.Category{audit.Approval, audit.Network, audit.Security, audit.System}

// write writes one entry.
func (w *writers) write() {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := api.Event{Category: usedCategories[w.random.IntN(len(usedCategories))].String(), OwnerPack: []string{"", "a", "b"}[w.random.IntN(3)],
		Action: []string{"x_done", "y_done"}[w.random.IntN(2)], Success: w.random.IntN(2) == 0, RequestID: fmt.Sprintf("R%05d", len(w.written))}
	category, _ := audit.ParseCategory(e.Category)
	if midnight := today().Start(); time.Since(midnight) < 20*time.Second && w.random.IntN(4) == 0 {
		e.TS = midnight.Add(-time.Microsecond)
		w.late(category, e)
		w.written = append(w.written, e)
		return
	}
	log := w.logs[w.random.IntN(len(w.logs))]
	err := log.Write(origin.With(context.Background(), origin.Origin{Actor: "x", RequestID: e.RequestID}), audit.Entry{Category: category, Action: e.Action, Success: e.Success,
		OwnerPack: e.OwnerPack, Details: map[string]any{"padding": strings.Repeat("x", w.random.IntN(400))}})
	if err != nil {
		w.t.Error(err)
	}
	e.TS = time.Now()
	w.written = append(w.written, e)
}

// late appends an entry of yesterday, as a process does that was stopped between a decision and its entry.
func (w *writers) late(category audit.Category, e api.Event) {
	name := auditfile.ID{Category: category, Day: today() - 1}.Name()
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, `{"ts":%q,"category":%q,"severity":"info","action":%q,"success":%v,"owner_pack":%q,"details":{},"request_id":%q,"actor":"x","service":"approval"}`+"\n",
		e.TS.UTC().Format("2006-01-02T15:04:05.000000Z"), e.Category, e.Action, e.Success, e.OwnerPack, e.RequestID); err != nil {
		w.t.Error(err)
	}
}

// wanted are the numbers of the entries that a filter asks for.
func (w *writers) wanted(t *testing.T, query auditfile.Query) []string {
	t.Helper()
	filter, err := query.Filter()
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, e := range w.written {
		if filter.Match(&auditfile.Entry{TS: e.TS, Category: e.Category, Action: e.Action, Success: e.Success, OwnerPack: e.OwnerPack, RequestID: e.RequestID}) {
			all = append(all, e.RequestID)
		}
	}
	return all
}

// checkOnce compares what a client has received with what was written.
func checkOnce(t *testing.T, c *client, want []string) {
	t.Helper()
	got := c.requests()
	sorted := slices.Sorted(slices.Values(got))
	if !slices.Equal(sorted, want) {
		seen := map[string]int{}
		for _, r := range got {
			seen[r]++
		}
		for _, r := range want {
			if seen[r] != 1 {
				t.Errorf("%+v: entry %s came %d times, want once", c.query, r, seen[r])
			}
		}
		t.Errorf("%+v: %d entries came, want %d", c.query, len(got), len(want))
	}
	last := map[string]string{}
	for _, e := range c.events {
		file := e.Category + e.TS.Format(time.DateOnly)
		if e.RequestID <= last[file] {
			t.Errorf("%+v: in %s, %s came after %s", c.query, file, e.RequestID, last[file])
		}
		last[file] = e.RequestID
	}
	for _, g := range c.gaps {
		t.Errorf("%+v: a gap, want none: %s", c.query, g.data)
	}
}

// pack compresses the files of the days before one, as the retention does.
func pack(t *testing.T, dir string, before auditfile.Day) (packed int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		id, compressed, ok := auditfile.ParseName(f.Name())
		if !ok || compressed || id.Day >= before {
			continue
		}
		plain, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := auditfile.Compress(&out, bytes.NewReader(plain)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, id.CompressedName()+".new"), out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, id.CompressedName()+".new"), filepath.Join(dir, id.CompressedName())); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
		packed++
	}
	return packed
}

// addForeign appends what is no entry to a file of today.
func addForeign(t *testing.T, dir string, random *rand.Rand) {
	t.Helper()
	id := auditfile.ID{Category: usedCategories[random.IntN(len(usedCategories))], Day: today()}
	f, err := os.OpenFile(filepath.Join(dir, id.Name()), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	texts := []string{"garbage\n", "\n", `{"ts":"2000-01-01T00:00:00Z","category":"network"` + "\n", "{\"ts\":\"2000-01-02T00:00:00Z\",\r\"category\":\"system\",\"action\":\"x\"}\n",
		strings.Repeat("x", 2*auditfile.MaxLine) + "\n"}
	if _, err := f.WriteString(texts[random.IntN(len(texts))]); err != nil {
		t.Fatal(err)
	}
}

// TestMain has the decoder made, which all files of a process share: one that was made under virtual time can't be used outside of it.
func TestMain(m *testing.M) {
	var packed bytes.Buffer
	dir, err := os.MkdirTemp("", "events")
	if err == nil {
		err = auditfile.Compress(&packed, strings.NewReader("x\n"))
	}
	id := auditfile.ID{Category: audit.System}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, id.CompressedName()), packed.Bytes(), 0o600)
	}
	if err == nil {
		var folder *auditfile.Dir
		if folder, err = auditfile.OpenDir(dir); err == nil {
			_, err = folder.Open(id)
		}
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Writers write around midnight for three days, gateways are killed and started, connections break at any byte, old days are compressed, foreign lines
// come between: each client gets each entry that it asks for exactly once, in the order of its file.
func TestEachEntryOnce(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { eachEntryOnce(t, dir, seed) })
		})
	}
}

func eachEntryOnce(t *testing.T, dir string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 2))
	w := newWriters(t, dir, seed)
	defer w.close()
	time.Sleep(24*time.Hour - 20*time.Second) // the first midnight comes
	clients := []*client{}
	for _, query := range []auditfile.Query{{}, {Category: "approval,system"}, {PackID: "a"}, {Action: "y_done", Success: "true"}} {
		clients = append(clients, newClient(t, query))
	}
	g := startGateway(t, dir)
	for _, c := range clients { // a cursor to begin with: what is written from now on is theirs
		if err := c.follow(g, 1<<20, func() bool { return c.id != "" }); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		end := time.Now().Add(40 * time.Second)
		var running sync.WaitGroup
		running.Go(func() {
			for time.Now().Before(end) {
				w.write()
				time.Sleep(time.Duration(w.random.IntN(400)) * time.Millisecond)
			}
		})
		for time.Now().Before(end) {
			until := time.Now().Add(time.Duration(random.IntN(12)+1) * time.Second)
			var following sync.WaitGroup
			for _, c := range clients {
				limit := int64(random.IntN(30_000)) // it breaks somewhere
				following.Go(func() {
					if err := c.follow(g, limit, func() bool { return time.Now().After(until) }); err != nil {
						t.Error(err)
					}
				})
			}
			time.Sleep(time.Until(until))
			g.end()
			addForeign(t, dir, random)
			close(g.stop) // ends the streams
			following.Wait()
			g = startGateway(t, dir)
		}
		running.Wait()
		g.end()
		time.Sleep(12 * time.Hour) // nobody follows, and somebody writes
		w.write()
		pack(t, dir, today())
		time.Sleep(12*time.Hour - 40*time.Second)
		g = startGateway(t, dir)
	}
	pack(t, dir, today())
	for _, c := range clients {
		want := w.wanted(t, c.query)
		deadline := time.Now().Add(time.Minute)
		for len(c.events) < len(want) && time.Now().Before(deadline) {
			if err := c.follow(g, 1<<30, func() bool { return len(c.events) >= len(want) || time.Now().After(deadline) }); err != nil {
				t.Error(err)
			}
		}
		checkOnce(t, c, want)
	}
	g.end()
}
