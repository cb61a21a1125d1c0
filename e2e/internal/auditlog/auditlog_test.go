package auditlog

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		entries             int
		fails               bool
	}{
		{"entries since a time", "approval_2026-03-01.jsonl",
			`{"ts":"2026-03-01T00:00:00.5Z","category":"approval","action":"old"}` + "\n" +
				`{"ts":"2026-03-01T10:00:00Z","category":"approval","action":"new","unknown":1}` + "\n", 1, false},
		{"an empty line after a crash", "approval_2026-03-01.jsonl",
			"\n" + `{"ts":"2026-03-01T10:00:00Z","category":"approval","action":"new"}` + "\n", 1, false},
		{"half a line", "approval_2026-03-01.jsonl", `{"ts":"2026-03-01T10:00:00Z","categ`, 0, true},
		{"another day's file", "approval_2026-03-02.jsonl",
			`{"ts":"2026-03-01T23:59:59Z","category":"approval","action":"new"}` + "\n", 0, true},
		{"another category's file", "network_2026-03-01.jsonl",
			`{"ts":"2026-03-01T10:00:00Z","category":"approval","action":"new"}` + "\n", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			entries, err := Read(dir, time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
			if len(entries) != c.entries || (err != nil) != c.fails {
				t.Errorf("read %d entries, %v; want %d, and an error: %v", len(entries), err, c.entries, c.fails)
			}
		})
	}
}
