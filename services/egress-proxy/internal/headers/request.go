// Package headers has the one check of header fields: which fields a request may have, however it came, which of them hold for one connection
// only and are not passed on, and which may follow a redirect to another server.
//
// A field must mean the same to us and to the server. Where two implementations of HTTP may read a header differently, an attacker can have
// us decide about one request and the server execute another (request smuggling): such a header is refused, never repaired.
package headers

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// Limits of contract.md on a request's header.
const (
	MaxFields = 100
	MaxName   = 256  // bytes
	MaxValue  = 8192 // bytes
)

// UserAgent is the User-Agent of a framed request that has none of its own.
const UserAgent = "rumi-egress-proxy"

// spellings are the names of the fields so far, by their lower-case form: names are compared without regard to case, but a server may not.
type spellings map[string]string

func (s spellings) has(lower string) bool { _, ok := s[lower]; return ok }

// add checks a field as every request's fields are checked.
func (s spellings) add(name, value string, to decision.Destination) (lower string, f *decision.Failure) {
	lower = strings.ToLower(name)
	before, again := s[lower]
	switch {
	case len(name) > MaxName:
		f = decision.Invalid("Header name too long: %d > %d", len(name), MaxName)
	case !httpguts.ValidHeaderFieldName(name):
		f = decision.Invalid("Invalid header name: %s", decision.Clip(name))
	case len(value) > MaxValue:
		f = decision.Invalid("Header value too long: %d > %d", len(value), MaxValue)
	case !httpguts.ValidHeaderFieldValue(value):
		f = decision.Invalid("Invalid value of header: %s", decision.Clip(name))
	case again && before != name: // of "Content-Length" and "content-length" a server may see either, or both
		f = decision.Invalid("Header in two spellings: %s", decision.Clip(name))
	case again && (lower == "host" || lower == "content-length" || lower == "transfer-encoding"): // a server may see the first, or the last
		f = decision.Invalid("Header given twice: %s", decision.Clip(name))
	case lower == "host" && !to.IsHost(value):
		f = decision.Invalid("Host header does not equal the URL's host")
	}
	s[lower] = name
	return lower, f
}

func checkCount(n int) *decision.Failure {
	if n > MaxFields {
		return decision.Invalid("Too many headers: %d > %d", n, MaxFields)
	}
	return nil
}

// OfFrame checks the fields of a framed request, in which no name stands twice, and returns those for the server: without the fields that are
// the proxy's to say or hold for one connection only, and with the defaults of what the pack left out.
func OfFrame(fields []upstream.Field, to decision.Destination) ([]upstream.Field, *decision.Failure) {
	if f := checkCount(len(fields)); f != nil {
		return nil, f
	}
	var named []string // by Connection, to be dropped with it
	seen := make(spellings, len(fields))
	for _, field := range fields {
		lower, f := seen.add(field.Name, field.Value, to)
		switch {
		case f != nil:
			return nil, f
		case lower == "transfer-encoding": // a frame has its body whole
			return nil, decision.Invalid("Header not allowed: Transfer-Encoding")
		case lower == "connection":
			named = append(named, tokens([]string{field.Value})...)
		}
	}
	kept := make([]upstream.Field, 0, len(fields)+2)
	for _, field := range fields {
		if lower := strings.ToLower(field.Name); !perConnection(lower) && !slices.Contains(named, lower) {
			kept = append(kept, upstream.Field{Name: field.Name, Value: strings.Trim(field.Value, " \t")})
		}
	}
	if !seen.has("user-agent") {
		kept = append(kept, upstream.Field{Name: "User-Agent", Value: UserAgent})
	}
	if !seen.has("accept-encoding") { // packs get the body as it comes
		kept = append(kept, upstream.Field{Name: "Accept-Encoding", Value: "identity"})
	}
	return kept, nil
}

// OfHead checks the lines of an HTTP/1.1 request's head after the first: each field, and how together they say where the body ends (RFC 9112,
// section 6.3). version is "HTTP/1.1" or "HTTP/1.0".
func OfHead(lines []string, method, version string, to decision.Destination) *decision.Failure {
	if f := checkCount(len(lines)); f != nil {
		return f
	}
	seen := make(spellings, len(lines))
	for _, line := range lines {
		name, value, colon := strings.Cut(line, ":")
		if !colon && len(name) <= MaxName {
			return decision.Invalid("Invalid header name: %s", decision.Clip(name))
		}
		value = strings.Trim(value, " \t")
		lower, f := seen.add(name, value, to)
		if f == nil {
			f = checkFraming(lower, value, method, version)
		}
		if f != nil {
			return f
		}
	}
	switch chunked, sized := seen.has("transfer-encoding"), seen.has("content-length"); {
	case chunked && sized: // the classic of request smuggling: one reader goes by the length, the other by the chunks
		return decision.Invalid("Both Content-Length and Transfer-Encoding")
	case sized && method == http.MethodConnect:
		return decision.Invalid("Header not allowed: %s", seen["content-length"])
	case !seen.has("host") && version == "HTTP/1.1":
		return decision.Invalid("Host header is missing")
	}
	return nil
}

// checkFraming checks a field on which it depends where the body ends and when it is sent.
func checkFraming(lower, value, method, version string) *decision.Failure {
	switch {
	case lower == "transfer-encoding" && (!strings.EqualFold(value, "chunked") || version != "HTTP/1.1" || method == http.MethodConnect):
		return decision.Invalid("Unsupported Transfer-Encoding")
	case lower == "expect" && !strings.EqualFold(value, "100-continue"):
		return decision.Invalid("Unsupported Expect header")
	}
	return nil
}
