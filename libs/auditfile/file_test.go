package auditfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

func open(t testing.TB, dir string) *auditfile.Dir {
	t.Helper()
	files, err := auditfile.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	return files
}

var (
	theDay = auditfile.DayOf(time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC))
	theID  = auditfile.ID{Category: audit.Network, Day: theDay}
)

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func compress(t testing.TB, content string) string {
	t.Helper()
	var packed bytes.Buffer
	if err := auditfile.Compress(&packed, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

func TestNames(t *testing.T) {
	if got, want := theID.Name(), "network_2026-01-31.jsonl"; got != want {
		t.Errorf("the name is %s, want %s", got, want)
	}
	for name, want := range map[string]bool{
		"network_2026-01-31.jsonl": true, "network_2026-01-31.jsonl.zst": true, "python_file_call_2026-01-31.jsonl": true,
		"network_2026-01-31.jsonl.1": false, "network_2026-01-31.jsonl.gz": false, "networks_2026-01-31.jsonl": false, "network_2026-1-31.jsonl": false,
		"network_2026-02-30.jsonl": false, "2026-01-31.jsonl": false, "_2026-01-31.jsonl": false, "": false, ".network_2026-01-31.jsonl.zst.tmp": false,
	} {
		if _, _, ok := auditfile.ParseName(name); ok != want {
			t.Errorf("%s is a file of the log: %v, want %v", name, ok, want)
		}
	}
	for _, before := range []time.Time{time.Unix(-1, 0), time.Unix(0, 0), time.Unix(86399, 0)} {
		if got, want := auditfile.DayOf(before).String(), before.UTC().Format(time.DateOnly); got != want {
			t.Errorf("the day of %v is %s, want %s", before, got, want)
		}
	}
}

func TestListPrefersThePlainFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"network_2026-01-31.jsonl", "network_2026-01-31.jsonl.zst", "network_2026-01-30.jsonl.zst", "foreign"} {
		write(t, dir, name, "")
	}
	if err := os.Mkdir(filepath.Join(dir, "system_2026-01-31.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).List()
	if err != nil {
		t.Fatal(err)
	}
	want := []auditfile.Stored{{ID: auditfile.ID{Category: audit.Network, Day: theDay - 1}, Compressed: true}, {ID: theID}}
	if !slices.Equal(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	files := open(t, dir)
	if _, err := files.Open(theID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v, want %v", err, fs.ErrNotExist)
	}
	write(t, dir, "target", "x\n")
	if err := os.Symlink("target", filepath.Join(dir, theID.Name())); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Open(theID); err == nil {
		t.Error("a link was followed")
	}
}

// content makes lines of all lengths, with empty and far too long ones.
func content(random *rand.Rand) string {
	var b strings.Builder
	for i := range 400 {
		length := random.IntN(300)
		if i%97 == 13 {
			length = auditfile.MaxLine - 2 + random.IntN(4)
		}
		if i == 200 {
			length = 5 * auditfile.MaxLine
		}
		b.WriteString(strings.Repeat(string(rune('a'+i%26)), length) + "\n")
	}
	return b.String()
}

type span struct {
	text       string
	begin, end int64
}

// split is what the readers must find.
func split(content string) (lines []span) {
	at := int64(0)
	for line := range strings.Lines(content) {
		text, isWhole := strings.CutSuffix(line, "\n")
		if !isWhole {
			break
		}
		if len(text) >= auditfile.MaxLine {
			text = "(too long)"
		}
		lines = append(lines, span{text, at, at + int64(len(line))})
		at += int64(len(line))
	}
	return lines
}

func spanOf(line auditfile.Line) span {
	if line.Text == nil {
		return span{"(too long)", line.Begin, line.End}
	}
	return span{string(line.Text), line.Begin, line.End}
}

func forwards(t testing.TB, from io.ReaderAt, offset int64) (found []span) {
	t.Helper()
	lines := auditfile.NewLines(from, offset)
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, spanOf(line))
		if lines.Offset() != line.End {
			t.Fatalf("the offset is %d after a line that ends at %d", lines.Offset(), line.End)
		}
	}
}

func backwards(t testing.TB, from io.ReaderAt, offset int64) (found []span) {
	t.Helper()
	lines, err := auditfile.NewBackward(from, offset)
	if err != nil {
		t.Fatal(err)
	}
	for {
		line, err := lines.Previous()
		if errors.Is(err, io.EOF) {
			slices.Reverse(found)
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, spanOf(line))
	}
}

func compareSpans(t testing.TB, what string, got, want []span) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: line %d is %.20q at %d–%d, want %.20q at %d–%d", what, i, got[i].text, got[i].begin, got[i].end, want[i].text, want[i].begin, want[i].end)
		}
	}
	t.Fatalf("%s: %d lines, want %d", what, len(got), len(want))
}

func TestLinesOfPlainAndCompressedFiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := content(random)
	want := split(text)
	for _, packed := range []bool{false, true} {
		dir := t.TempDir()
		if packed {
			write(t, dir, theID.CompressedName(), compress(t, text))
		} else {
			write(t, dir, theID.Name(), text+"torn")
		}
		f, err := open(t, dir).Open(theID)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if size, err := f.Size(); err != nil || packed && size != int64(len(text)) {
			t.Fatalf("the size is %d, %v, want %d", size, err, len(text))
		}
		for range 20 {
			at := random.IntN(len(want) + 1)
			offset := int64(len(text))
			if at < len(want) {
				offset = want[at].begin
			}
			compareSpans(t, fmt.Sprintf("from %d, compressed %v", at, packed), forwards(t, f, offset), want[at:])
			compareSpans(t, fmt.Sprintf("back from %d, compressed %v", at, packed), backwards(t, f, offset), want[:at])
		}
	}
}

func TestBackwardSkipsATornEnd(t *testing.T) {
	compareSpans(t, "torn", backwards(t, strings.NewReader("a\nb\ntorn"), 8), []span{{"a", 0, 2}, {"b", 2, 4}})
	compareSpans(t, "nothing whole", backwards(t, strings.NewReader("torn"), 4), nil)
	compareSpans(t, "in a line", backwards(t, strings.NewReader("a\nbcd\n"), 4), []span{{"a", 0, 2}})
	compareSpans(t, "empty", backwards(t, strings.NewReader(""), 0), nil)
}

func TestLinesGoOnWhenTheFileGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := auditfile.NewLines(f, 0)
	for i, step := range []struct{ written, want string }{{"", ""}, {"a", ""}, {"b\n", "ab"}, {"", ""}, {"\nc", "-"}, {"\n", "c"}} {
		if _, err := f.WriteString(step.written); err != nil {
			t.Fatal(err)
		}
		line, err := lines.Next()
		got := string(line.Text)
		if err == nil && got == "" {
			got = "-"
		}
		if got != step.want || (err == nil) != (step.want != "") {
			t.Errorf("step %d: %q, %v, want %q", i, got, err, step.want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), uint16(3))
	f.Add(bytes.Repeat([]byte("x"), 3*auditfile.MaxLine), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, seed uint16) {
		if seed%3 == 0 { // make it long enough for several chunks
			data = bytes.Repeat(append(data, "\nx"...), min(int(seed), 1+200_000/(len(data)+2)))
		}
		want := split(string(data))
		compareSpans(t, "forwards", forwards(t, bytes.NewReader(data), 0), want)
		compareSpans(t, "backwards", backwards(t, bytes.NewReader(data), int64(len(data))), want)
	})
}

// A file of a few bytes must not unpack to gigabytes, whatever its table says.
func TestOpenBoundsFrames(t *testing.T) {
	packed := []byte(compress(t, strings.Repeat("x", 1000)+"\n"))
	table := packed[len(packed)-9-12:] // one entry of sizes and checksum, and the footer
	for what, change := range map[string]func(){
		"unpacked": func() { binary.LittleEndian.PutUint32(table[4:], 1<<31) },
		"packed":   func() { binary.LittleEndian.PutUint32(table, 1<<31) },
	} {
		kept := slices.Clone(packed)
		change()
		dir := t.TempDir()
		write(t, dir, theID.CompressedName(), string(packed))
		if _, err := open(t, dir).Open(theID); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%s: %v, want it to be too large", what, err)
		}
		copy(packed, kept)
	}
}

func FuzzCompressed(f *testing.F) {
	f.Add([]byte(compress(f, "a\nb\n")))
	f.Add([]byte(compress(f, "")))
	f.Add([]byte{})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, packed []byte) {
		write(t, dir, theID.CompressedName(), string(packed))
		file, err := open(t, dir).Open(theID)
		if err != nil {
			return
		}
		defer file.Close()
		lines := auditfile.NewLines(file, 0)
		for range 1000 {
			if _, err := lines.Next(); err != nil {
				return
			}
		}
	})
}

func TestCurrent(t *testing.T) {
	dir := t.TempDir()
	files := open(t, dir)
	write(t, dir, theID.Name(), "a\n")
	f, err := files.Open(theID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !files.Current(f) {
		t.Error("the file isn't its own")
	}
	if err := os.Rename(filepath.Join(dir, theID.Name()), filepath.Join(dir, theID.Name()+".1")); err != nil {
		t.Fatal(err)
	}
	if files.Current(f) {
		t.Error("the file is current after a rotation")
	}
	write(t, dir, theID.Name(), "b\n")
	if files.Current(f) {
		t.Error("another file of that name is taken for it")
	}
}
