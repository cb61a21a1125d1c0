package auditquery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditindex"
)

// world is a home with an audit log of random entries.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	audit string
	dir   *auditfile.Dir
	index *auditindex.Index
	log   *Log
	clock map[auditfile.ID]time.Time
	n     int
}

const firstDay = auditfile.Day(20700)

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), audit: t.TempDir(), clock: map[auditfile.ID]time.Time{}}
	var err error
	if w.dir, err = auditfile.OpenDir(w.audit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.dir.Close() })
	w.index = auditindex.Open(filepath.Join(t.TempDir(), "index"), w.dir, auditindex.Sizes{Min: 4 << 10, Max: 64 << 10}, slog.New(slog.DiscardHandler))
	w.log = New(w.dir, w.index)
	return w
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

var (
	packs   = []string{"weather", "mail", "a__b", "evil", ""}
	actions = []string{"network_request", "network_denied", "pack_approved", "secret_read"}
	actors  = []string{"operator", "pack:evil", "system", "oidc:someone"}
	hosts   = []string{"api.example.com", "EVIL.example.net", "10.0.0.1", "bücher.example", "quote\"back\\slash"}
)

// line is a random line of a file: mostly an entry, sometimes what a hostile service could write.
func (w *world) line(id auditfile.ID) []byte {
	w.n++
	at, ok := w.clock[id]
	if !ok {
		at = id.Day.Start()
	}
	at = at.Add(time.Duration(w.rng.IntN(40_000)) * time.Millisecond)
	if at.Before((id.Day + 1).Start()) {
		w.clock[id] = at
	} else {
		at = w.clock[id]
	}
	if w.rng.IntN(20) == 0 { // of another process, written late, or a liar's
		at = id.Day.Start().Add(time.Duration(w.rng.IntN(86_400_000)) * time.Millisecond)
	}
	switch w.rng.IntN(60) {
	case 0:
		return []byte(`{"ts":"2026-09-`)
	case 1:
		return nil
	case 2:
		return bytes.Repeat([]byte("x"), w.rng.IntN(200_000))
	case 3:
		return []byte("\x00\xff\xfe binary \x01")
	case 4:
		at = at.Add(48 * time.Hour)
	}
	details, _ := json.Marshal(map[string]any{"host": pick(w.rng, hosts...), "n": w.n, "port": w.rng.IntN(65536)})
	entry := fmt.Sprintf(`{"ts":%q,"category":%q,"severity":"info","action":%q,"success":%v,"owner_pack":%q,"details":%s,"request_id":"R%d","trace_id":"%032x","actor":%q,"service":"test"}`,
		at.Format("2006-01-02T15:04:05.000000Z"), id.Category, pick(w.rng, actions...), w.rng.IntN(3) > 0, pick(w.rng, packs...), details, w.n/3, w.n/5, pick(w.rng, actors...))
	return []byte(entry)
}

// append appends n lines to files of some days.
func (w *world) append(n, days int) {
	w.t.Helper()
	batches := map[auditfile.ID][]byte{}
	for range n {
		id := auditfile.ID{Category: pick(w.rng, audit.Network, audit.Network, audit.Network, audit.Security, audit.Approval, audit.System), Day: firstDay + auditfile.Day(w.rng.IntN(days))}
		batches[id] = append(append(batches[id], w.line(id)...), '\n')
	}
	for id, lines := range batches {
		f, err := os.OpenFile(filepath.Join(w.audit, id.Name()), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := f.Write(lines); err != nil {
			w.t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// compress compresses a day, as the sealer does. Later lines of that day come into a new plain file.
func (w *world) compress(day auditfile.Day) {
	w.t.Helper()
	stored, err := w.dir.List()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range stored {
		if s.Day != day || s.Compressed {
			continue
		}
		plain := filepath.Join(w.audit, s.Name())
		data, err := os.ReadFile(plain)
		if err != nil {
			w.t.Fatal(err)
		}
		var packed bytes.Buffer
		if err := auditfile.Compress(&packed, bytes.NewReader(data)); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.audit, s.CompressedName()), packed.Bytes(), 0o640); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Remove(plain); err != nil {
			w.t.Fatal(err)
		}
	}
}

// found is an entry as the oracle has it.
type found struct {
	id  auditfile.ID
	at  time.Time
	n   int // of its line
	raw string
}

// oracle reads all lines. Its order is what query.go promises: the last lines of the files of a day are compared, and the newest one comes first.
func (w *world) oracle(f auditfile.Filter) (all []found) {
	w.t.Helper()
	byDay := map[auditfile.Day][][]found{}
	stored, err := w.dir.List()
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(stored, func(a, b auditfile.Stored) int { return cmp.Compare(a.Category, b.Category) })
	for _, s := range stored {
		byDay[s.Day] = append(byDay[s.Day], w.oracleFile(s.ID, f))
	}
	for day := firstDay + 20; day >= firstDay; day-- {
		for lists := byDay[day]; ; {
			best := -1
			for i, l := range lists {
				if len(l) > 0 && (best < 0 || l[len(l)-1].at.After(lists[best][len(lists[best])-1].at)) {
					best = i
				}
			}
			if best < 0 {
				break
			}
			last := len(lists[best]) - 1
			all = append(all, lists[best][last])
			lists[best] = lists[best][:last]
		}
	}
	return all
}

func (w *world) oracleFile(id auditfile.ID, f auditfile.Filter) (list []found) {
	file, err := w.dir.Open(id)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	size, _ := file.Size()
	data := make([]byte, size)
	if _, err := file.ReadAt(data, 0); err != nil && size > 0 {
		w.t.Fatal(err)
	}
	lines := bytes.Split(data, []byte("\n"))
	for i, line := range lines[:len(lines)-1] {
		var e struct {
			TS        time.Time `json:"ts"`
			Category  string    `json:"category"`
			Action    string    `json:"action"`
			Success   bool      `json:"success"`
			OwnerPack string    `json:"owner_pack"`
			RequestID string    `json:"request_id"`
			TraceID   string    `json:"trace_id"`
			Actor     string    `json:"actor"`
		}
		if len(line) >= auditfile.MaxLine || json.Unmarshal(line, &e) != nil || e.Category != id.Category.String() || auditfile.DayOf(e.TS) != id.Day {
			continue
		}
		text := strings.NewReplacer(e.RequestID, "\n", e.TraceID, "\n", e.TS.Format("2006-01-02T15:04:05.000000Z"), "\n").Replace(string(line))
		if (len(f.Categories) == 0 || slices.Contains(f.Categories, id.Category)) && (len(f.Actions) == 0 || slices.Contains(f.Actions, e.Action)) &&
			(f.PackID == "" || f.PackID == e.OwnerPack) && (f.Actor == "" || f.Actor == e.Actor) && (f.Success == nil || *f.Success == e.Success) &&
			(f.RequestID == "" || f.RequestID == e.RequestID) && (f.TraceID == "" || f.TraceID == e.TraceID) &&
			(f.Since.IsZero() || !e.TS.Before(f.Since)) && (f.Until.IsZero() || e.TS.Before(f.Until)) &&
			strings.Contains(strings.ToLower(text), string(f.Text)) {
			list = append(list, found{id, e.TS, i, string(line)})
		}
	}
	return list
}

// filter is a random one.
func (w *world) filter() auditfile.Filter {
	rng := w.rng
	q := auditfile.Query{}
	maybe := func(to *string, of int, value string) {
		if rng.IntN(of) == 0 {
			*to = value
		}
	}
	maybe(&q.Category, 4, pick(rng, "network", "security", "network,approval", "system", "flow_execution"))
	maybe(&q.Action, 4, pick(rng, "network_request", "network_denied,secret_read", "none"))
	maybe(&q.PackID, 3, pick(rng, "weather", "evil", "a__b", "nobody"))
	maybe(&q.Actor, 4, pick(rng, actors...))
	maybe(&q.Success, 4, pick(rng, "true", "false"))
	maybe(&q.RequestID, 8, fmt.Sprintf("R%d", rng.IntN(w.n/3+1)))
	maybe(&q.TraceID, 8, fmt.Sprintf("%032x", rng.IntN(w.n/5+1)))
	maybe(&q.Q, 4, pick(rng, "evil.example", "api", "e", `quote"back\`, "bücher", "10.0.0.1", "nowhere", fmt.Sprintf(`"n":%d`, rng.IntN(w.n)), "EXAMPLE.NET"))
	from := firstDay.Start().Add(time.Duration(rng.IntN(4*24)) * time.Hour)
	maybe(&q.Since, 3, from.Format(time.RFC3339))
	maybe(&q.Until, 3, from.Add(time.Duration(1+rng.IntN(48))*time.Hour).Format(time.RFC3339))
	f, err := q.Filter()
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// walk asks page by page.
func (w *world) walk(f auditfile.Filter, limit int, lines int64, between func()) (all []string, pages int) {
	w.t.Helper()
	q := Question{Filter: f, Limit: limit}
	for pages = 1; pages < 20_000; pages++ {
		if lines > 0 {
			q.budget = &budget{left: lines, deadline: time.Now().Add(time.Minute)}
		}
		answer, err := w.log.Ask(context.Background(), q)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range answer.Entries {
			all = append(all, string(e))
		}
		if answer.Next == nil {
			return all, pages
		}
		text := answer.Next.String() // as a client has it
		next, err := auditfile.ParseCursor(text, auditfile.Back)
		if err != nil {
			w.t.Fatalf("the cursor %s that was answered: %v", text, err)
		}
		q.Cursor, q.budget = &next, nil
		between()
	}
	w.t.Fatalf("%d pages, and no end", pages)
	return nil, 0
}

func (w *world) compare(what string, f auditfile.Filter, got []string, want []found) {
	w.t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i].raw {
			g, x := "nothing", "nothing"
			if i < len(got) {
				g = got[i]
			}
			if i < len(want) {
				x = want[i].raw
			}
			w.t.Fatalf("%s, filter %+v (text %q): entry %d of %d: got\n%.300s\nwant one of %d:\n%.300s", what, f, f.Text, i, len(got), g, len(want), x)
		}
	}
}

// update brings the index up to date as Run does.
func (w *world) update() {
	w.t.Helper()
	if err := w.index.Update(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// Random logs and random filters: an index that has all, some or nothing of the log must give the answers of a reader of all lines, however small the pages and
// the budget are.
func TestAnswersLikeAReaderOfAllLines(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			for round := range 3 {
				w.append(1000, 4)
				if round == 1 {
					w.compress(firstDay) // and round 2 appends late lines
				}
				if round != 1 {
					w.update()
				}
				for range 20 {
					f := w.filter()
					want := w.oracle(f)
					got, _ := w.walk(f, 1000, 0, func() {})
					w.compare("large pages", f, got, want)
					got, _ = w.walk(f, 5+w.rng.IntN(100), int64(200+w.rng.IntN(3000)), func() {})
					w.compare("small pages and a small budget", f, got, want)
				}
			}
		})
	}
}

// A cursor holds while the days before it are compressed, and the index of each is gone.
func TestCursorHoldsOverCompression(t *testing.T) {
	w := newWorld(t, 7)
	w.append(1500, 3)
	w.update()
	var f auditfile.Filter
	want := w.oracle(f)
	n := 0
	got, _ := w.walk(f, 40, 0, func() {
		if n++; n%4 == 0 && n < 13 {
			w.compress(firstDay + 2 - auditfile.Day(n/4-1))
		}
		if n == 8 {
			w.index = auditindex.Open(filepath.Join(t.TempDir(), "index"), w.dir, auditindex.DefaultSizes, slog.New(slog.DiscardHandler))
			w.log = New(w.dir, w.index)
		}
	})
	w.compare("over compression", f, got, want)
}

// A token for some packs finds the entries of these, whatever else it asks for.
func TestNarrowedToPacks(t *testing.T) {
	w := newWorld(t, 8)
	w.append(1000, 2)
	w.update()
	w.append(200, 2)
	for range 20 {
		f := w.filter()
		var want []string
		for _, e := range w.oracle(f) {
			if strings.Contains(e.raw, `"owner_pack":"mail"`) || strings.Contains(e.raw, `"owner_pack":"evil"`) {
				want = append(want, e.raw)
			}
		}
		answer, err := w.log.Ask(context.Background(), Question{Filter: f, Packs: []string{"evil", "mail"}, Limit: 5000})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range answer.Entries {
			got = append(got, string(e))
		}
		slices.Sort(got) // liars' times make the order depend on what is asked for
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("filter %+v: got %d entries, want the %d of the packs", f, len(got), len(want))
		}
	}
}

// What is appended while somebody turns pages must not shift what he gets: what was there when he began comes once each.
func TestCursorHoldsWhileEntriesAreAppended(t *testing.T) {
	w := newWorld(t, 99)
	w.append(2000, 3)
	w.update()
	for range 8 {
		f := w.filter()
		want := w.oracle(f)
		n := 0
		got, _ := w.walk(f, 25, 0, func() {
			if n++; n%5 == 0 {
				w.append(20, 3)
			}
			if n%7 == 0 {
				w.update()
			}
		})
		seen := map[string]int{}
		for _, e := range got {
			seen[e]++
		}
		for _, e := range want {
			if seen[e.raw] != 1 {
				t.Fatalf("filter %+v: an entry that was there when the walk began came %d times, want once: %.200s", f, seen[e.raw], e.raw)
			}
		}
		for e, n := range seen {
			if n != 1 {
				t.Fatalf("an entry came %d times: %.200s", n, e)
			}
		}
	}
}
