package frameproto

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// bodyEncoding is the header that says that a body is base64. A server's own field of that name is dropped.
const bodyEncoding = "X-Proxy-Body-Encoding"

// answer records what came of the request and appends the answer for the pack to dst. An answer that is over the limit becomes a failure, and so
// does one that couldn't be written down.
func (e *exchange) answer(dst []byte) []byte {
	start := len(dst)
	e.Latency = time.Since(e.began)
	if e.Failure == nil && overflows(e.response.Body) {
		e.Failure = decision.TooLarge
	}
	if e.Failure == nil {
		dst = appendAnswer(dst, &e.Result, e.response)
		if len(dst)-start > MaxResponse {
			e.Failure = decision.TooLarge
		}
	}
	if e.Failure == nil {
		e.Status, e.Received = e.response.Status, int64(len(e.response.Body))
	}
	if err := e.recorder.Record(e.pack.ID, &e.Result)(); err != nil {
		e.Failure = decision.Internal
	}
	if e.Failure != nil {
		dst = appendFailure(dst[:start], &e.Result)
	}
	return dst
}

// overflows says whether a body is over the limit of an answer by itself once it is quoted, which may make it six times as long (\u0000). It is
// asked before the answer is made: a body of 4 MiB would otherwise take 24 MiB for an answer that is thrown away.
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

func appendAnswer(dst []byte, r *record.Result, response *upstream.Response) []byte {
	body := response.Body
	dst = slices.Grow(dst, len(body)+len(body)/16+1<<10)
	dst = append(dst, `{"success":true,"status_code":`...)
	dst = strconv.AppendInt(dst, int64(response.Status), 10)
	binary := !utf8.Valid(body)
	dst = append(dst, `,"headers":`...)
	dst = appendHeaders(dst, response.Fields, binary)
	dst = append(dst, `,"header_list":`...)
	dst = appendList(dst, response.Fields)
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
	dst = appendQuote(dst, r.Destination.String())
	return append(dst, '}')
}

func appendFailure(dst []byte, r *record.Result) []byte {
	dst = append(dst, `{"success":false,"status_code":null,"headers":null,"header_list":null,"body":null,"error":`...)
	dst = appendQuote(dst, r.Failure.Text)
	dst = append(dst, `,"error_type":`...)
	dst = appendQuote(dst, string(r.Failure.Kind))
	dst = appendCommon(dst, r)
	return append(dst, `,"bytes_read":0,"final_url":null}`...)
}

func appendCommon(dst []byte, r *record.Result) []byte {
	dst = append(dst, `,"latency_ms":`...)
	dst = strconv.AppendFloat(dst, record.Milliseconds(r.Latency), 'f', -1, 64)
	dst = append(dst, `,"redirect_hops":`...)
	return strconv.AppendInt(dst, int64(r.Hops), 10)
}

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

// appendQuote appends a JSON string. Callers see to it that s is UTF-8; bytes that aren't are replaced all the same, rather than making the answer
// invalid JSON.
func appendQuote[T []byte | string](dst []byte, s T) []byte {
	quoted, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		quoted, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(string(s), "\uFFFD"))
	}
	return quoted
}
