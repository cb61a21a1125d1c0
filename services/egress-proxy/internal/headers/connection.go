package headers

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// perConnection says whether a field, its name in lower case, ends at the proxy: it is the proxy's own to say or holds for one connection only (RFC 9110, section
// 7.6.1). It isn't passed on, in either direction.
func perConnection(lower string) bool {
	switch lower {
	case "baggage": // of a trace: who reads it may take it for Rumi's word (W3C Baggage)
		return true
	case "host", "content-length", "connection", "keep-alive", "te", "trailer", "upgrade":
		return true
	}
	return strings.HasPrefix(lower, "proxy-")
}

// Strip removes from the header or trailer of a request or an answer what isn't passed on: the fields that hold for one connection only, those
// that Connection names, and those that are the proxy's own to say.
func Strip(h http.Header) {
	named := tokens(h["Connection"])
	for name := range h {
		if lower := strings.ToLower(name); perConnection(lower) || lower == "transfer-encoding" || slices.Contains(named, lower) {
			delete(h, name)
		}
	}
}

// IsWebSocket says whether a head asks for an upgrade to WebSocket, or agrees to it (RFC 6455, section 4). No other upgrade is passed on: what
// follows it could be requests that no decision was made about.
func IsWebSocket(h http.Header) bool {
	return HasToken(h["Connection"], "upgrade") && len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], "websocket")
}

// HasToken says whether a field, whose values are lists (RFC 9110, section 5.6.1), has the element want, which is in lower case.
func HasToken(values []string, want string) bool { return slices.Contains(tokens(values), want) }

// tokens are the elements of lists, in lower case.
func tokens(values []string) (all []string) {
	for _, value := range values {
		for token := range strings.SplitSeq(value, ",") {
			all = append(all, strings.ToLower(strings.Trim(token, " \t")))
		}
	}
	return all
}

// SafeOnRedirect returns the fields that may follow a redirect to another server: only those that can't be credentials. Any other may be one,
// whatever it is called (X-Api-Key, Cookie, X-Auth-Token).
func SafeOnRedirect(fields []upstream.Field) []upstream.Field {
	var safe []upstream.Field
	for _, f := range fields {
		switch strings.ToLower(f.Name) {
		case "accept", "accept-encoding", "accept-language", "cache-control", "user-agent", "range", "if-none-match", "if-modified-since":
			safe = append(safe, f)
		}
	}
	return safe
}

// WithoutBody returns the fields without those that describe a body: for a redirect after which the body isn't sent again.
func WithoutBody(fields []upstream.Field) []upstream.Field {
	var kept []upstream.Field
	for _, f := range fields {
		if !strings.HasPrefix(strings.ToLower(f.Name), "content-") {
			kept = append(kept, f)
		}
	}
	return kept
}
