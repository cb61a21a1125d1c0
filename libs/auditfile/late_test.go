package auditfile_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

var lateID = auditfile.ID{Category: audit.Network, Day: 20000}

// storeDay writes a plain file, a compressed one, or both; "" for none.
func storeDay(t *testing.T, dir, plain, packed string) {
	t.Helper()
	if plain != "" {
		if err := os.WriteFile(filepath.Join(dir, lateID.Name()), []byte(plain), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if packed == "" {
		return
	}
	var b bytes.Buffer
	if err := auditfile.Compress(&b, strings.NewReader(packed)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, lateID.CompressedName()), b.Bytes(), 0o640); err != nil {
		t.Fatal(err)
	}
}

func linesOf(t *testing.T, f *auditfile.File) string {
	t.Helper()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// A kill of the compression, and a line that comes days late, leave both files. Each line must be there once.
func TestPlainBesideCompressed(t *testing.T) {
	long := strings.Repeat("x", 300<<10) + "\n"
	for name, c := range map[string]struct{ plain, packed, want string }{
		"killed before the plain one was removed": {"a\nb\n", "a\nb\n", "a\nb\n"},
		"killed, and lines were added":            {"a\nb\nc\n", "a\nb\n", "a\nb\nc\n"},
		"late lines":                              {"c\n", "a\nb\n", "a\nb\nc\n"},
		"late lines after several frames":         {"c\nd\n", long + long, long + long + "c\nd\n"},
		"a long first line twice":                 {long, long, long},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			storeDay(t, dir, c.plain, c.packed)
			d, err := auditfile.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			f, err := d.Open(lateID)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := linesOf(t, f); got != c.want {
				t.Errorf("got %d bytes ending in %.20q, want %d ending in %.20q", len(got), got[max(0, len(got)-20):], len(c.want), c.want[max(0, len(c.want)-20):])
			}
		})
	}
}

// A process that begins a new day makes empty files of all categories, also of an old day.
func TestEmptyPlainBesideCompressed(t *testing.T) {
	dir := t.TempDir()
	storeDay(t, dir, "", "a\nb\n")
	if err := os.WriteFile(filepath.Join(dir, lateID.Name()), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	d, err := auditfile.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := d.Open(lateID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := linesOf(t, f); got != "a\nb\n" {
		t.Errorf("got %q, want the compressed lines", got)
	}
	if err := os.WriteFile(filepath.Join(dir, lateID.Name()), []byte("c\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := linesOf(t, f); got != "a\nb\nc\n" {
		t.Errorf("after a line was appended: got %q, want it at the end", got)
	}
}

// The text filter leaves out what is random: every short text would be found in it.
func TestSearchable(t *testing.T) {
	const line = `{"ts":"2024-10-04T01:02:03.000004Z","category":"network","severity":"info","action":"abc","success":true,"details":{"request_id":"EVIL1"},"request_id":"EVIL2","trace_id":"e411e411","actor":"x","service":"y"}`
	id := auditfile.ID{Category: audit.Network, Day: auditfile.DayOf(time.Date(2024, 10, 4, 0, 0, 0, 0, time.UTC))}
	e, err := auditfile.ParseOf(id, []byte(line))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"evil1": true, "EVIL1": true, "evil2": false, "e411": false, "01:02:03": false, `"actor":"x"`: false, "actor": true, "EVIL": true, `abc`: true,
	} {
		f, err := auditfile.Query{Q: text}.Filter()
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(&e); got != want {
			t.Errorf("%q is found: got %v, want %v", text, got, want)
		}
	}
	for _, other := range []auditfile.ID{{Category: audit.Security, Day: id.Day}, {Category: audit.Network, Day: id.Day + 1}} {
		if _, err := auditfile.ParseOf(other, []byte(line)); err == nil {
			t.Errorf("a line of %s in the file %s: got an entry, want an error", id.Name(), other.Name())
		}
	}
	for _, foreign := range []string{strings.Replace(line, `"actor":"x"`, `"actor":"x","actor":"z"`, 1), strings.Replace(line, "abc", "a\xffc", 1)} {
		if _, err := auditfile.ParseOf(id, []byte(foreign)); err == nil {
			t.Errorf("%.200q: got an entry, want an error: strict parsers refuse it", foreign)
		}
	}
}

// What Excludes excludes must not match, however a value is written.
func TestExcludesNothingThatMatches(t *testing.T) {
	for _, line := range []string{
		`{"ts":"2024-10-04T01:02:03.000004Z","category":"network","action":"abc","success":true,"owner_pack":"we\u0061ther","request_id":"R1","actor":"a\"b"}`,
		`{"ts":"2024-10-04T01:02:03.000004Z","category":"network","action":"abc","success":true,"owner_pack":"weather","request_id":"R1","actor":"bücher"}`,
	} {
		e, err := auditfile.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []auditfile.Query{{PackID: "weather"}, {PackID: "nobody"}, {Actor: `a"b`}, {Actor: "bücher"}, {RequestID: "R1"}, {Q: "ABC"}, {Q: `"`}, {Q: "none"}, {TraceID: "R1"}} {
			f, err := q.Filter()
			if err != nil {
				t.Fatal(err)
			}
			if f.Excludes([]byte(line)) && f.Match(&e) {
				t.Errorf("%+v matches and is excluded: %s", q, line)
			}
		}
	}
}
