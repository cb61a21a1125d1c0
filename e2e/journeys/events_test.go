package journeys

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// eventStream is a curl that follows the events.
type eventStream struct {
	data []string // of the events with data, as they came
	id   string   // the last cursor
}

// follow runs curl until it has got an event with each of these texts, or the gateway ends the stream. begun is called when the first cursor is there.
func (s *eventStream) follow(t *testing.T, begun func(), wanted ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandWait)
	defer cancel()
	port := ""
	for _, setting := range suite.env {
		if value, ok := strings.CutPrefix(setting, "RUMI_PORT="); ok {
			port = value
		}
	}
	curl := exec.CommandContext(ctx, "curl", "-N", "-sS", "-H", "Authorization: Bearer "+suite.api.Token, "-H", "Last-Event-ID: "+s.id,
		"http://localhost:"+port+"/api/events?category=system")
	out, err := curl.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	curl.Stderr = os.Stderr
	if err := curl.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = curl.Wait() }()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	next, first := "", true
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			next = value
		case "data":
			s.data = append(s.data, value)
			wanted = slices.DeleteFunc(wanted, func(text string) bool { return strings.Contains(value, text) })
		case "":
			if next != "" {
				s.id = next
			}
			if next != "" && first {
				first = false
				begun()
			}
			if next = ""; len(wanted) == 0 {
				return
			}
		}
	}
}

// A program that follows the events with curl misses none and gets none twice when the gateway restarts, and services do meanwhile.
func TestEventsOverARestartOfTheGateway(t *testing.T) {
	compose := func(args ...string) {
		t.Helper()
		if out, err := suite.compose(t.Context(), args...); err != nil {
			t.Fatalf("docker compose %v: %v\n%s", args, err, out)
		}
	}
	var stream eventStream
	stream.follow(t, func() {
		post(t, "/api/secrets/set", map[string]any{"key": "EVENTS_FIRST", "value": "x"})
	}, "EVENTS_FIRST")
	stream.follow(t, func() { compose("stop", "gateway") }, "never")
	compose("restart", "secrets")
	compose("start", "gateway")
	if err := suite.awaitServices(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream.follow(t, func() {
		post(t, "/api/secrets/set", map[string]any{"key": "EVENTS_SECOND", "value": "x"})
	}, "EVENTS_SECOND")
	if len(stream.data) == 0 {
		t.Fatal("no events came")
	}
	for _, want := range []string{`"action":"service_stopped"`, `"action":"service_started"`, `"service":"secrets"`} {
		if !slices.ContainsFunc(stream.data, func(data string) bool { return strings.Contains(data, want) }) {
			t.Errorf("no event has %s, want those of the restarts", want)
		}
	}
	written := systemEntries(t)
	begin, end := slices.Index(written, stream.data[0]), slices.Index(written, stream.data[len(stream.data)-1])
	if begin < 0 || end < begin || !slices.Equal(written[begin:end+1], stream.data) {
		t.Errorf("the events are\n%s\nwant what is in the audit log:\n%s", strings.Join(stream.data, "\n"), strings.Join(written[max(0, begin):end+1], "\n"))
	}
}

// systemEntries are the lines of the category system.
func systemEntries(t *testing.T) (lines []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(suite.home, "user_data/audit/system_*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	return lines
}
