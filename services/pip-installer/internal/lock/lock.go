// Package lock reads requirements.lock files, strictly: lines NAME==VERSION and comments. Everything else that pip understands
// is refused, because it could fetch, run or hide something. The file itself is never given to pip, only the requirements that
// were found in it.
package lock

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/text"
)

// MaxBytes bounds a lock file (contract.md, "Locks").
const MaxBytes = 1 << 20

// maxQuoted is how many bytes of a bad line an error shows.
const maxQuoted = 80

// Requirement is one line: exactly one version of one distribution.
type Requirement struct {
	Name    string   `json:"name"`    // as it is written
	Version string   `json:"version"` // as it is written
	Extras  []string `json:"extras,omitempty"`
}

// String is the requirement as pip reads it.
func (r Requirement) String() string {
	if len(r.Extras) > 0 {
		return r.Name + "[" + strings.Join(r.Extras, ",") + "]==" + r.Version
	}
	return r.Name + "==" + r.Version
}

// Key identifies a distribution: its name as PEP 503 normalises it.
func (r Requirement) Key() string { return NormalizeName(r.Name) }

var separators = regexp.MustCompile(`[-_.]+`)

// NormalizeName is the normal form of the name of a distribution or an extra (PEP 503, PEP 685).
func NormalizeName(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

// The grammar. Names are those of PEP 508; a version is checked by ParseVersion. \A and \z: `$` would take a newline.
var (
	requirement = regexp.MustCompile(`\A([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*(?:\[([^\[\]]*)\])?[ \t]*==[ \t]*([^ \t=]+)\z`)
	extraName   = regexp.MustCompile(`\A[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\z`)
	// What makes Python read a file in another encoding than UTF-8 (PEP 263); pip reads it in the first two lines.
	codingCookie = regexp.MustCompile(`coding[:=][ \t]*[-_.a-zA-Z0-9]+`)
)

// Parse reads a lock. The error says for the operator which line is wrong, and why.
func Parse(data []byte) ([]Requirement, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", MaxBytes)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("not UTF-8")
	}
	var found []Requirement
	lines := map[string]int{}
	n := 0
	for line := range strings.SplitSeq(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		n++
		r, ok, err := parseLine(line, n)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if !ok {
			continue
		}
		if before, twice := lines[r.Key()]; twice {
			return nil, fmt.Errorf("line %d: %s is listed in line %d already", n, r.Name, before)
		}
		lines[r.Key()] = n
		found = append(found, r)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("lists no package")
	}
	return found, nil
}

func parseLine(line string, n int) (r Requirement, ok bool, err error) {
	if err := checkCharacters(line); err != nil {
		return r, false, err
	}
	code, comment := splitComment(line)
	if n <= 2 && codingCookie.MatchString(comment) {
		return r, false, fmt.Errorf("a comment must not name an encoding")
	}
	code = strings.Trim(code, " \t")
	if code == "" {
		return r, false, nil
	}
	if i := strings.IndexFunc(code, func(c rune) bool { return c >= utf8.RuneSelf }); i >= 0 {
		return r, false, fmt.Errorf("%q has a character that is not ASCII", quoted(code))
	}
	m := requirement.FindStringSubmatch(code)
	if m == nil {
		if strings.Contains(code, "--hash") {
			return r, false, fmt.Errorf("%q is not NAME==VERSION: hashes are not read yet (uv pip compile --no-generate-hashes)", quoted(code))
		}
		return r, false, fmt.Errorf("%q is not NAME==VERSION (pin it: pip freeze, or uv pip compile --no-annotate --no-emit-index-url)", quoted(code))
	}
	r = Requirement{Name: m[1], Version: m[3]}
	if _, valid := ParseVersion(r.Version); !valid {
		return r, false, fmt.Errorf("%q is not a version (PEP 440)", quoted(r.Version))
	}
	if strings.Contains(code, "[") {
		if r.Extras, err = parseExtras(m[2]); err != nil {
			return r, false, err
		}
	}
	return r, true, nil
}

func parseExtras(list string) ([]string, error) {
	var extras []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.Trim(name, " \t")
		if !extraName.MatchString(name) {
			return nil, fmt.Errorf("%q is not a list of extras", quoted(list))
		}
		if normal := NormalizeName(name); !slices.Contains(extras, normal) {
			extras = append(extras, normal)
		}
	}
	return extras, nil
}

// splitComment cuts a line at a # that begins it or follows white space, as pip does.
func splitComment(line string) (code, comment string) {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return line[:i], line[i:]
		}
	}
	return line, ""
}

// checkCharacters refuses characters that a reviewer can't see, and those that other programs take for the end of a line, so
// that they would read a second requirement in it: all controls except the tab (Python splits at U+000B, U+000C, U+001C to
// U+001E, U+0085 and a lone CR), U+2028, U+2029, byte order marks, and marks that change the direction of text.
func checkCharacters(line string) error {
	for _, c := range line {
		if c != '\t' && !unicode.IsGraphic(c) {
			return fmt.Errorf("character %U is not allowed", c)
		}
	}
	return nil
}

// quoted is a part of a lock file as an error repeats it.
func quoted(s string) string { return text.Clip(s, maxQuoted) }
