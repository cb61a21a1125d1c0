package auditfile_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/origin"
)

const whole = `{"ts":"2026-01-31T12:00:00.000001Z","category":"network","severity":"warning","action":"network_denied","success":false,` +
	`"owner_pack":"weather","phase":"end","details":{"host":"a.example","deep":[{"action":"x"}]},"error":"e","rejection_reason":"r",` +
	`"request_id":"R","trace_id":"T","actor":"pack:weather","service":"egress-proxy","later":{"a":[1]}}`

func TestParseReadsWhatTheLogWrites(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(dir, "gateway", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx := origin.With(context.Background(), origin.Origin{Actor: "a\"na", RequestID: "R1"})
	begin := time.Now()
	if err := log.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Critical, Action: "x_done", Success: true, OwnerPack: "weather",
		Phase: "begin", Error: "line\nbreak", RejectionReason: "why", Details: map[string]any{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	log.Close()
	files := open(t, dir)
	f, err := files.Open(auditfile.ID{Category: audit.Security, Day: auditfile.DayOf(begin)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := auditfile.NewLines(f, 0)
	line, err := lines.Next()
	if err != nil {
		t.Fatal(err)
	}
	got, err := auditfile.Parse(line.Text)
	if err != nil {
		t.Fatal(err)
	}
	if age := got.TS.Sub(begin); age < -time.Second || age > time.Minute {
		t.Errorf("ts is %v, want about %v", got.TS, begin)
	}
	got.TS, got.Raw = time.Time{}, nil
	want := auditfile.Entry{Category: "security", Severity: "critical", Action: "x_done", Success: true, OwnerPack: "weather", Phase: "begin",
		Error: "line\nbreak", RejectionReason: "why", RequestID: "R1", Actor: "a\"na", Service: "gateway"}
	if !equal(got, want) {
		t.Errorf("the entry is %+v, want %+v", got, want)
	}
	if _, err := lines.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last line: %v, want EOF", err)
	}
}

func equal(a, b auditfile.Entry) bool {
	a.Raw, b.Raw = nil, nil
	return a.TS.Equal(b.TS) && a.Category == b.Category && a.Severity == b.Severity && a.Action == b.Action && a.Success == b.Success &&
		a.OwnerPack == b.OwnerPack && a.Phase == b.Phase && a.Error == b.Error && a.RejectionReason == b.RejectionReason &&
		a.RequestID == b.RequestID && a.TraceID == b.TraceID && a.Actor == b.Actor && a.Service == b.Service
}

func TestParseRefusesWhatIsNoEntry(t *testing.T) {
	for name, line := range map[string]string{
		"empty": "", "torn": whole[:len(whole)-1], "torn in a string": whole[:40], "two in one": whole[:40] + whole, "no object": `["x"]`, "no ts": `{"category":"network","action":"x"}`,
		"no action": `{"ts":"2026-01-31T12:00:00Z","category":"network"}`, "no category": `{"ts":"2026-01-31T12:00:00Z","action":"x"}`,
		"no time": `{"ts":"yesterday","category":"network","action":"x"}`, "a number for a text": strings.Replace(whole, `"network_denied"`, `1`, 1),
		"too long": `{"ts":"2026-01-31T12:00:00Z","category":"network","action":"` + strings.Repeat("x", auditfile.MaxLine) + `"}`,
	} {
		if e, err := auditfile.Parse([]byte(line)); err == nil {
			t.Errorf("%s: parsed as %+v, want an error", name, e)
		}
	}
	if _, err := auditfile.Parse([]byte(whole)); err != nil {
		t.Errorf("a whole line: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(whole[:50]))
	f.Add([]byte(`{"ts":"2026-01-31T12:00:00Z","ts":"2026-01-31T12:00:01Z","category":"\u0000","action":"\ud800"}`))
	filter, err := auditfile.Query{Q: "host"}.Filter()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := auditfile.Parse(line)
		if err != nil {
			return
		}
		if e.TS.IsZero() || e.Category == "" || e.Action == "" || len(line) >= auditfile.MaxLine {
			t.Errorf("an entry without what it must have: %+v", e)
		}
		if got, want := filter.Match(&e), strings.Contains(strings.ToLower(string(line)), "host"); got != want {
			t.Errorf("the text is found: %v, want %v", got, want)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(whole)))
	for b.Loop() {
		if _, err := auditfile.Parse([]byte(whole)); err != nil {
			b.Fatal(err)
		}
	}
}
