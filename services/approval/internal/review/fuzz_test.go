package review

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	api "github.com/rumi-ai/rumi/api/review"
	"github.com/rumi-ai/rumi/libs/text"
)

// FuzzUnified: a diff in which nothing had to be escaped or cut makes the new text of the old one.
func FuzzUnified(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nB\nc\n")
	f.Add("", "x")
	f.Add("a\nb", "a\nb\n")
	f.Add("x\nx\nx\n", "x\nx\n")
	f.Add("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n11\n")
	f.Add(strings.Repeat("long ", 1000), strings.Repeat("long ", 999)+"other")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a == b || !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		diff, state := unified("old", "new", a, b)
		if state == api.DiffTooLarge {
			return
		}
		for line := range strings.Lines(diff) {
			if line = strings.TrimSuffix(line, "\n"); len(line) > 12*maxLine || !text.IsLine(strings.ReplaceAll(strings.TrimSuffix(line, "\r"), "\t", "")) {
				t.Fatalf("a line of the diff is %.100q; want at most %d bytes, and nothing that a line can't have", line, 12*maxLine)
			}
		}
		hides := func(s string) bool {
			return strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != '\t' && unicode.Is(unicode.Cc, r) }) || strings.Contains(visible(s), `\`)
		}
		if state == api.DiffShortened || hides(a) || hides(b) || !strings.HasSuffix(a, "\n") || !strings.HasSuffix(b, "\n") {
			return
		}
		if got, err := udiff.ApplyUnified(diff, a); err != nil || got != b {
			t.Fatalf("the diff\n%s\nmakes %q of %q, want %q (%v)", diff, got, a, b, err)
		}
	})
}

// FuzzLookThrough: what stands before a text changes only the lines of what is found in it, wherever the borders of what is read at
// a time fall.
func FuzzLookThrough(f *testing.F) {
	f.Add("x = 'аdmin' # \u202e\n", 1, true)
	f.Add("🏴\U000e0067\U000e0062\u200d\ufe0f\xff\x00", 65536, true)
	f.Add(strings.Repeat(" ", 130)+"x\r\n\r\n", 65535, false)
	f.Add("f'{ｅval}' '''\n'''\"\\\"\n# coding: utf-7", 3, true)
	f.Fuzz(func(t *testing.T, s string, before int, python bool) {
		if before < 0 || before > 200_000 {
			return
		}
		bare, err := searchContent(strings.NewReader("\n\n\n"+s), python)
		if err != nil {
			t.Fatal(err)
		}
		if err := bare.clear(strings.NewReader("\n\n\n"+s), python); err != nil {
			t.Fatal(err)
		}
		padding := "\n\n" + strings.Repeat("y", before) + "\n"
		padded, err := searchContent(strings.NewReader(padding+s), python)
		if err != nil {
			t.Fatal(err)
		}
		if err := padded.clear(strings.NewReader(padding+s), python); err != nil {
			t.Fatal(err)
		}
		padded.findings = slices.DeleteFunc(padded.findings, func(f finding) bool { return f.kind == "long_line" })
		bare.findings = slices.DeleteFunc(bare.findings, func(f finding) bool { return f.kind == "long_line" })
		if !slices.Equal(bare.findings, padded.findings) || bare.content != padded.content {
			t.Fatalf("%q: found %+v (%s), behind %d bytes %+v (%s); want the same", s, bare.findings, bare.content, before, padded.findings, padded.content)
		}
	})
}

// Every character has the class that its properties say, also those that have none of their own in the table.
func TestClasses(t *testing.T) {
	for r := rune(utf8.RuneSelf); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) || r >= planes<<16 && r&0xfff > 2 && r&0xfff < 0xffd {
			continue
		}
		if got, want := classOf(r), classify(r); got.kind() != want.kind() || got&letter != want&letter {
			t.Fatalf("class of %U is %b, want %b", r, got, want)
		}
	}
}

// Of two versions of a large file only what lies between what is common is compared, and of long lines only what changed is shown.
func TestDiffsOfLargeTexts(t *testing.T) {
	lines := strings.Repeat("line of code\n", 100_000)
	for name, c := range map[string]struct {
		a, b  string
		want  string // is in the diff
		state DiffState
	}{
		"one line in many":       {lines + "x\n" + lines, lines + "y\n" + lines, "@@ -99998,7 +99998,7 @@\n line of code\n line of code\n line of code\n-x\n+y\n line", api.DiffShown},
		"one line at the end":    {lines + "x\n", lines + "y\n", "-x\n+y\n", api.DiffShown},
		"minified":               {strings.Repeat("a=1;", 70_000), strings.Repeat("a=1;", 35_000) + "eval(1);" + strings.Repeat("a=1;", 35_000), "eval(1);", api.DiffShortened},
		"everything":             {lines, strings.ReplaceAll(lines, "code", "poem"), "", api.DiffTooLarge},
		"what hides is escaped":  {"a\n", "b\u202e\x1b\n", "+b\\u202e\\x1b\n", api.DiffShown},
		"no line feed":           {"a", "b", "-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n", api.DiffShown},
		"a line feed at the end": {"a\nb", "a\nb\n", "-b\n\\ No newline at end of file\n+b\n", api.DiffShown},
	} {
		t.Run(name, func(t *testing.T) {
			diff, state := unified("old", "new", c.a, c.b)
			if state != c.state || !strings.Contains(diff, c.want) || len(diff) > 10_000 {
				t.Errorf("diff (%s, %d bytes)\n%.2000s\nwant %s with %q", state, len(diff), diff, c.state, c.want)
			}
		})
	}
}

// The fast path passes over a line only if every byte of it is plain, whatever the byte and wherever it stands.
func TestPlainLine(t *testing.T) {
	for _, filler := range []byte(" a~") {
		for b := range 256 {
			if b == '\n' {
				continue
			}
			for at := range 16 {
				line := append(slices.Repeat([]byte{filler}, 16), '\n')
				line[at] = byte(b)
				want := 0
				if byteClass[b] == plain {
					want = len(line)
				}
				if got := (&search{line: 1}).plainLine(line); got != want {
					t.Errorf("%q: passed over %d bytes, want %d", line, got, want)
				}
			}
		}
	}
}
