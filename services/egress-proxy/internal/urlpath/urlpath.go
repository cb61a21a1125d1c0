// Package urlpath brings the path of a URL to one normal form, in which it is compared with a grant's path rules, and finds the paths
// that servers read differently.
//
// A path rule is worth nothing if the server takes the path for another one than we do. Servers decode escapes once or twice, collapse
// "//", cut at ";" or at a NUL byte, take "\" for "/", remove ".." before or after decoding. No normal form agrees with
// all of them, so such paths are not rewritten: they are under no prefix (Exact).
package urlpath

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

// MaxPrefix is the longest path prefix of a rule, in bytes.
const MaxPrefix = 2048

// ErrInvalid is the error for a text that is no path prefix.
var ErrInvalid = errors.New("parse path prefix: not an absolute path that every server reads alike")

// Normalize brings an escaped path, as url.URL.EscapedPath gives it, to its normal form: escapes of unreserved characters are undone,
// the digits of others are written in capitals (RFC 3986, section 6.2.2), then dot segments are removed (section 5.2.4).
// Empty segments and escaped slashes stay, since some servers give them a meaning.
func Normalize(escaped string) string {
	if !strings.Contains(escaped, "%") && !strings.Contains(escaped, "/.") {
		return escaped
	}
	return removeDots(unescapeUnreserved(escaped))
}

func unescapeUnreserved(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c, ok := escapeAt(s, i)
		switch {
		case !ok:
			b.WriteByte(s[i])
			continue
		case unreserved(c):
			b.WriteByte(c)
		default:
			b.WriteString(strings.ToUpper(s[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

func removeDots(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	kept := segments[:0]
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".", "..":
			if segment == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}

// Exact says whether a path, as it is sent, is in its normal form and every server reads it alike. Only for such a path does a prefix
// say what is asked for.
func Exact(path string) bool { return Plain(path) && Normalize(path) == path }

// unclear are characters that no path may have (RFC 3986, section 3.3) but that clients send. Servers escape them, refuse them or cut
// the path there.
const unclear = "\"<>[]^`{|}\\"

// Plain says whether every server reads a normalised path alike. These are not plain, since a server may decode them twice, collapse
// or cut them before it looks: empty segments, escaped slashes and escapes of escapes, backslashes, control characters,
// bytes that are no UTF-8, and segments of dots and spaces, also with parameters ("..;x").
func Plain(path string) bool {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok || !plainEscapes(path) {
		return false
	}
	decoded, err := url.PathUnescape(rest)
	if err != nil || !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, cutsOrSeparates) {
		return false
	}
	return plainSegments(strings.Split(decoded, "/"))
}

// plainEscapes says whether a path has no unclear character, and no escape that would be a separator or another escape once it is
// decoded: "%2f", "%5c", "%252e".
func plainEscapes(path string) bool {
	for i := range len(path) {
		if path[i] != '%' {
			if strings.IndexByte(unclear, path[i]) >= 0 {
				return false
			}
			continue
		}
		c, ok := escapeAt(path, i)
		if !ok || c == '/' || c == '\\' {
			return false
		}
		if c == '%' && i+4 < len(path) {
			if _, hex := escapeAt("%"+path[i+3:], 0); hex {
				return false
			}
		}
	}
	return true
}

// cutsOrSeparates says whether some server ends or divides a path at the character: control characters and backslashes.
func cutsOrSeparates(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }

// plainSegments says whether no segment but the last is empty, and none consists of dots and spaces only, parameters aside.
func plainSegments(segments []string) bool {
	for i, segment := range segments {
		if segment == "" && i == len(segments)-1 {
			break
		}
		name, _, _ := strings.Cut(segment, ";")
		if strings.Trim(name, ". ") == "" {
			return false
		}
	}
	return true
}

// ParsePrefix reads a rule's path prefix into the form that requests are sent in. The error is ErrInvalid.
func ParsePrefix(s string) (string, error) {
	if len(s) > MaxPrefix || !strings.HasPrefix(s, "/") || strings.ContainsAny(s, "?#") {
		return "", ErrInvalid
	}
	u, err := url.Parse("http://host" + s)
	if err != nil {
		return "", ErrInvalid
	}
	prefix := unescapeUnreserved(u.EscapedPath())
	if !Plain(prefix) { // before dot segments are removed: in a rule they are a mistake, whatever they would come to
		return "", ErrInvalid
	}
	return prefix, nil
}

// Under says whether a path is the prefix or below it: "/v1" covers "/v1" and "/v1/x" but not "/v1x"; "/v1/" covers only paths below
// it. Both must be in their normal form; the caller checks Exact.
func Under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// escapeAt reads the escape "%XX" at i. ok is false if there is none.
func escapeAt(s string, i int) (c byte, ok bool) {
	if i+2 >= len(s) || s[i] != '%' {
		return 0, false
	}
	high, ok1 := hex(s[i+1])
	low, ok2 := hex(s[i+2])
	return high<<4 | low, ok1 && ok2
}

func hex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
