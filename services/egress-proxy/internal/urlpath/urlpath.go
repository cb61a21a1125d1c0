// Package urlpath gives the path of a URL one form, in which it is compared with a grant's rules, and tells the paths on whose
// meaning servers differ.
package urlpath

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

// MaxPrefix is the longest path prefix of a rule, in bytes.
const MaxPrefix = 2048

// ErrInvalid is a text that is no path prefix.
var ErrInvalid = errors.New("parse path prefix: not an absolute path that every server reads alike")

// Normalize brings an escaped path, as url.URL.EscapedPath gives it, to its one form: escapes of unreserved characters
// undone, others in capitals (RFC 3986, section 6.2.2), then dot segments removed (section 5.2.4). Empty segments and
// escaped slashes stay: to some servers they mean something.
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

// Exact says whether a path, as it is sent, is in its one form and every server takes it for the same: only of such a path a
// prefix says what is asked for.
func Exact(path string) bool { return Plain(path) && Normalize(path) == path }

// unclear are characters that stand in no path (RFC 3986, section 3.3) but are sent in some: servers escape, refuse or cut there.
const unclear = "\"<>[]^`{|}\\"

// Plain says whether every server takes a normalised path for the same. Those are not plain that a server may decode
// twice, collapse or cut before it looks: empty segments, escaped slashes and escapes, backslashes, control characters,
// bytes that are no UTF-8, segments of dots and spaces, with parameters too ("..;x").
func Plain(path string) bool {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return false
	}
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
	decoded, err := url.PathUnescape(rest)
	if err != nil || !utf8.ValidString(decoded) {
		return false
	}
	for i := range len(decoded) {
		if c := decoded[i]; c < ' ' || c == 0x7f || c == '\\' {
			return false
		}
	}
	segments := strings.Split(decoded, "/")
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
	if !Plain(prefix) { // with its dot segments: in a rule they are a mistake, whatever they come to
		return "", ErrInvalid
	}
	return prefix, nil
}

// Under says whether a path is the prefix or below it: "/v1" covers "/v1" and "/v1/x" but not "/v1x"; "/v1/" covers
// what is below it only. Both are in their one form.
func Under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// escapeAt reads "%XX" at i.
func escapeAt(s string, i int) (byte, bool) {
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
