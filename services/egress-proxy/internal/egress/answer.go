package egress

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// bodyEncoding is the header that says that a body is base64. A server's own field of that name is dropped.
const bodyEncoding = "X-Proxy-Body-Encoding"

// conclude writes down what came of a request and appends the answer for the pack to dst. An answer that is over the
// limit becomes a failure, and so does one that could not be written down.
func (k *pack) conclude(r *result, began time.Time, dst []byte) []byte {
	start := len(dst)
	r.latency = time.Since(began)
	if r.failure == nil && overflows(r.response.Body) {
		r.failure = decision.TooLarge
	}
	if r.failure == nil {
		dst = appendAnswer(dst, r)
		if len(dst)-start > MaxResponse {
			r.failure = decision.TooLarge
		}
	}
	if r.failure == nil {
		r.status, r.received = r.response.Status, int64(len(r.response.Body))
	}
	if err := k.record(r)(); err != nil {
		r.failure = decision.Internal
	}
	if r.failure != nil {
		dst = appendFailure(dst[:start], r)
	}
	return dst
}

// overflows says of a long body whether it alone is over the limit when it is quoted, which may make it six times as long.
func overflows(body []byte) bool {
	if len(body) <= MaxResponse/6 || !utf8.Valid(body) {
		return false
	}
	n := len(body)
	for _, c := range body {
		switch {
		case c == '"', c == '\\', c == '\b', c == '\f', c == '\n', c == '\r', c == '\t':
			n++
		case c < ' ':
			n += 5
		}
	}
	return n > MaxResponse
}

func appendAnswer(dst []byte, r *result) []byte {
	body := r.response.Body
	dst = slices.Grow(dst, len(body)+len(body)/16+1<<10)
	dst = append(dst, `{"success":true,"status_code":`...)
	dst = strconv.AppendInt(dst, int64(r.response.Status), 10)
	binary := !utf8.Valid(body)
	dst = append(dst, `,"headers":`...)
	dst = appendHeaders(dst, r.response.Fields, binary)
	dst = append(dst, `,"header_list":`...)
	dst = appendList(dst, r.response.Fields)
	dst = append(dst, `,"body":`...)
	if binary {
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, body)
		dst = append(dst, '"')
	} else {
		dst = appendQuote(dst, body)
	}
	dst = append(dst, `,"error":null,"error_type":null`...)
	dst = appendCommon(dst, r)
	dst = append(dst, `,"bytes_read":`...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, `,"final_url":`...)
	dst = appendQuote(dst, r.destination.String())
	return append(dst, '}')
}

func appendFailure(dst []byte, r *result) []byte {
	dst = append(dst, `{"success":false,"status_code":null,"headers":null,"header_list":null,"body":null,"error":`...)
	dst = appendQuote(dst, r.failure.Text)
	dst = append(dst, `,"error_type":`...)
	dst = appendQuote(dst, string(r.failure.Kind))
	dst = appendCommon(dst, r)
	return append(dst, `,"bytes_read":0,"final_url":null}`...)
}

func appendCommon(dst []byte, r *result) []byte {
	dst = append(dst, `,"latency_ms":`...)
	dst = strconv.AppendFloat(dst, milliseconds(r.latency), 'f', -1, 64)
	dst = append(dst, `,"redirect_hops":`...)
	return strconv.AppendInt(dst, int64(r.hops), 10)
}

// milliseconds has three decimals.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// appendHeaders writes an object: each name once, as first spelt, with its values joined by ", ", those of Set-Cookie
// by a newline, since a cookie may hold a comma.
func appendHeaders(dst []byte, fields []upstream.Field, binary bool) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if hidden(f) || slices.ContainsFunc(fields[:i], func(g upstream.Field) bool { return sameName(f, g) }) {
			continue
		}
		separator := ", "
		if strings.EqualFold(f.Name, "Set-Cookie") {
			separator = "\n"
		}
		value := f.Value
		for _, g := range fields[i+1:] {
			if sameName(f, g) {
				value += separator + g.Value
			}
		}
		dst = appendQuote(dst, f.Name)
		dst = append(dst, ':')
		dst = appendQuote(dst, value)
		dst = append(dst, ',')
	}
	if binary {
		return append(dst, `"`+bodyEncoding+`":"base64"}`...)
	}
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, '}')
}

// appendList writes an array of [name, value], as they came.
func appendList(dst []byte, fields []upstream.Field) []byte {
	dst = append(dst, '[')
	for _, f := range fields {
		if hidden(f) {
			continue
		}
		if dst[len(dst)-1] != '[' {
			dst = append(dst, ',')
		}
		dst = append(dst, '[')
		dst = appendQuote(dst, f.Name)
		dst = append(dst, ',')
		dst = appendQuote(dst, f.Value)
		dst = append(dst, ']')
	}
	return append(dst, ']')
}

func hidden(f upstream.Field) bool {
	return len(f.Name) == len(bodyEncoding) && strings.EqualFold(f.Name, bodyEncoding)
}

func sameName(f, g upstream.Field) bool {
	return len(f.Name) == len(g.Name) && strings.EqualFold(f.Name, g.Name)
}

// appendQuote writes a JSON string. What isn't UTF-8 was dealt with before; should something have got past that, it is
// replaced.
func appendQuote[T []byte | string](dst []byte, s T) []byte {
	quoted, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		quoted, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(string(s), "\uFFFD"))
	}
	return quoted
}
