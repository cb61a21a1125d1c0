package review

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/rumi-ai/rumi/libs/tree"
)

// maxLine is the length of a line, in bytes, that nobody reads to its end.
const maxLine = 2000

// Warning is something that a reviewer wants to be told of.
type Warning struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // binary, bytecode, hidden, executable, special_mode, long_line, bidirectional, invisible, control, look_alike
	Detail string `json:"detail"`
}

// warn looks at every name and at the content of every file that is not too large.
func (r *Review) warn(m tree.Manifest, open Open) error {
	say := func(e tree.Entry, kind, format string, args ...any) {
		if len(r.Warnings) == maxWarnings {
			r.Truncated = true
			return
		}
		r.Warnings = append(r.Warnings, Warning{e.Path, kind, fmt.Sprintf(format, args...)})
	}
	alike := map[string]string{} // folder and skeleton → the first name with it
	for _, e := range m.Entries {
		if e.Path == "." {
			continue
		}
		name := path.Base(e.Path)
		if strings.HasPrefix(name, ".") {
			say(e, "hidden", "its name begins with a dot")
		}
		if script := mixed(name); script != "" {
			say(e, "look_alike", "its name mixes Latin and %s letters", script)
		}
		key := path.Dir(e.Path) + "/" + skeleton(name)
		if other, ok := alike[key]; ok {
			say(e, "look_alike", "its name looks like that of %q", other)
		} else {
			alike[key] = name
		}
		for _, f := range odd(name, "") {
			say(e, f.kind, "its name contains such a character")
		}
		if e.Mode&0o7000 != 0 && e.Kind == tree.File {
			say(e, "special_mode", "mode %04o", e.Mode)
		}
		if e.Kind != tree.File {
			continue
		}
		if e.Mode&0o111 != 0 {
			say(e, "executable", "mode %04o", e.Mode)
		}
		if slices.Contains([]string{".pyc", ".pyo", ".pyd", ".so", ".class"}, strings.ToLower(path.Ext(name))) {
			say(e, "bytecode", "compiled code can't be reviewed")
		}
		if e.Size > maxLook {
			say(e, "binary", "%d bytes are too many to look at", e.Size)
			continue
		}
		data, err := read(e, open)
		if err != nil {
			return err
		}
		if !isText(data) {
			say(e, "binary", "%d bytes that are no text", e.Size)
			continue
		}
		number := 0
		for line := range bytes.Lines(data) {
			number++
			if len(line) > maxLine {
				say(e, "long_line", "line %d has %d bytes", number, len(line))
				break
			}
		}
		for _, f := range odd(string(bytes.TrimPrefix(data, []byte("\ufeff"))), "\t\n\f") {
			say(e, f.kind, "line %d", f.line)
		}
	}
	return nil
}

// finding is where a kind of odd characters begins.
type finding struct {
	kind string
	line int // from 1
}

// odd finds characters that show something else than they are, the first of each kind: one that many texts have must not
// hide another. Those in plain, and a carriage return at the end of a line where lines may end, are what they are.
func odd(text, plain string) (found []finding) {
	line := 1
	for i, r := range text {
		if r == '\n' {
			line++
		}
		kind := oddRune(r)
		if kind == "" || strings.ContainsRune(plain, r) || plain != "" && strings.HasPrefix(text[i:], "\r\n") {
			continue
		}
		if !slices.ContainsFunc(found, func(f finding) bool { return f.kind == kind }) {
			found = append(found, finding{kind, line})
		}
	}
	return found
}

func oddRune(r rune) string {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f:
		return "control" // a terminal that shows it may do what it says
	case r < 0x7f:
		return ""
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x061c:
		return "bidirectional" // Unicode's explicit directional formatting, UAX #9
	case unicode.Is(unicode.Cf, r), r == 0x034f, r == 0x115f, r == 0x1160, r == 0x2028, r == 0x2029, r == 0x3164, r == 0xffa0, r >= 0xfe00 && r <= 0xfe0f:
		return "invisible"
	}
	return ""
}

// mixed is the script, other than Latin, of which a name with Latin letters has some: "" if there is none.
func mixed(name string) string {
	latin, other := false, ""
	for _, r := range name {
		if unicode.Is(unicode.Latin, r) {
			latin = true
		}
		for script, table := range map[string]*unicode.RangeTable{"Cyrillic": unicode.Cyrillic, "Greek": unicode.Greek, "Armenian": unicode.Armenian, "Cherokee": unicode.Cherokee} {
			if unicode.Is(table, r) {
				other = script
			}
		}
	}
	if latin {
		return other
	}
	return ""
}

// twins are letters that many fonts draw alike.
var twins = strings.NewReplacer(
	"0", "o", "1", "l", "i", "l", "|", "l", "5", "s", "rn", "m", "vv", "w",
	"а", "a", "е", "e", "о", "o", "р", "p", "с", "c", "х", "x", "у", "y", "ѕ", "s", "і", "l", "ј", "j", "ԁ", "d", "ɡ", "g", "ո", "n", "ο", "o", "α", "a",
)

// skeleton is equal for names that a reader may take for each other: compatibility forms, case and twins don't count.
func skeleton(name string) string {
	if !utf8.ValidString(name) {
		return name
	}
	return twins.Replace(strings.ToLower(norm.NFKC.String(name)))
}
