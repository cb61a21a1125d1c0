package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep details are encoded by hand. Deeper ones are left to encoding/json, which finds a map that contains itself
// and returns an error for it.
const maxDepth = 32

// append appends the entry, byte for byte as encoding/json would write it without HTML escapes. It doesn't use reflection: a denied
// request leaves two entries, and encoding them by reflection took a quarter of the request's processor time.
func (l *line) append(dst []byte) ([]byte, error) {
	dst = appendString(append(dst, `{"category":`...), l.Category)
	dst = appendString(append(dst, `,"severity":`...), l.Severity)
	dst = appendString(append(dst, `,"action":`...), l.Action)
	dst = strconv.AppendBool(append(dst, `,"success":`...), l.Success)
	dst = appendOptional(dst, `,"owner_pack":`, l.OwnerPack)
	dst = appendOptional(dst, `,"phase":`, l.Phase)
	dst, err := appendMap(append(dst, `,"details":`...), l.Details, 0)
	if err == nil && len(l.attrs) > 0 {
		dst, err = appendAttrs(dst[:len(dst)-1], l.attrs)
	}
	if err != nil {
		return nil, fmt.Errorf("encode entry %s: %w", l.Action, err)
	}
	dst = appendOptional(dst, `,"error":`, l.Error)
	dst = appendOptional(dst, `,"rejection_reason":`, l.RejectionReason)
	dst = appendOptional(dst, `,"request_id":`, l.RequestID)
	dst = appendOptional(dst, `,"trace_id":`, l.TraceID)
	dst = appendString(append(dst, `,"actor":`...), l.Actor)
	dst = appendString(append(dst, `,"service":`...), l.Service)
	return append(dst, '}'), nil
}

// appendOptional appends a member unless its value is "".
func appendOptional(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, name...), value)
}

// appendMap appends a map, sorted by key as encoding/json does.
func appendMap(dst []byte, m map[string]any, depth int) ([]byte, error) {
	if m == nil {
		return append(dst, "null"...), nil
	}
	if depth == maxDepth {
		return appendAny(dst, m)
	}
	var few [16]string
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, k), ':')
		var err error
		if dst, err = appendValue(dst, m[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendAttrs ends an object that has been begun.
func appendAttrs(dst []byte, attrs []slog.Attr) ([]byte, error) {
	for i := range attrs {
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, attrs[i].Key), ':')
		var err error
		switch v := attrs[i].Value; v.Kind() {
		case slog.KindString:
			dst = appendString(dst, v.String())
		case slog.KindBool:
			dst = strconv.AppendBool(dst, v.Bool())
		case slog.KindInt64:
			dst = strconv.AppendInt(dst, v.Int64(), 10)
		case slog.KindFloat64:
			dst, err = appendFloat(dst, v.Float64())
		default:
			dst, err = appendValue(dst, v.Any(), 1)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendValue knows the types that details usually are of.
func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case string:
		return appendString(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return appendFloat(dst, v)
	case map[string]any:
		return appendMap(dst, v, depth)
	case []string:
		if v == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, s)
		}
		return append(dst, ']'), nil
	default:
		return appendAny(dst, v)
	}
}

// appendAny is the library's way.
func appendAny(dst []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the log is read by people and by jq, never put into a page as it is
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), nil
}

// appendFloat writes numbers as ECMAScript does: without an exponent from 1e-6 to below 1e21.
func appendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return appendAny(dst, f)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if n := len(dst); format == 'e' && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' { // e-09 is e-9
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst, nil
}

// appendString escapes what JSON must, and the two line separators that JavaScript took for line ends.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = appendEscape(append(dst, s[start:i]...), c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[start:i]...), `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, hex[r&15])
		default:
			i += size
			continue
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

const hex = "0123456789abcdef"

// appendEscape escapes a quote, a backslash or a control character.
func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	dst = append(dst, `\u00`...)
	return append(dst, hex[c>>4], hex[c&15])
}
