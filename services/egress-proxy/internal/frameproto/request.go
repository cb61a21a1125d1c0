// Package frameproto serves requests in frames: a JSON object each way over a pack's socket, behind four bytes of length (contract.md, "Egress").
// A request and its answer are in memory as a whole, and the proxy follows redirects.
package frameproto

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// Limits of contract.md on a request.
const (
	MaxRequest   = 1 << 20 // bytes of a request's frame
	MaxResponse  = 4 << 20 // bytes of an answer's frame
	maxTimeout   = 120 * time.Second
	maxRedirects = 3
)

// Defaults.
const (
	defaultTimeout = 30 * time.Second
	defaultConnect = 10 * time.Second
)

// call is a request that fits the protocol.
type call struct {
	method  string
	url     decision.Destination
	fields  []upstream.Field // what the pack set, but for the fields that are the proxy's own
	body    []byte
	total   time.Duration // of the whole request
	connect time.Duration // for a name to be looked up and a connection to be made, of each hop; 0 for no bound of its own
	read    time.Duration // for the next byte of an answer; 0 for no bound of its own
}

// message is a request as it comes. Unknown members are ignored: a later version of the protocol may have more.
type message struct {
	Method  string    `json:"method"`
	URL     string    `json:"url"`
	Headers fieldList `json:"headers"`
	Body    string    `json:"body"`
	Timeout *float64  `json:"timeout_seconds"`
	Connect *float64  `json:"connect_timeout_seconds"`
	Read    *float64  `json:"read_timeout_seconds"`
}

// fieldList is a JSON object of strings, in the order in which they were written.
type fieldList []upstream.Field

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (h *fieldList) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	start, err := dec.ReadToken()
	if err != nil {
		return err
	}
	switch start.Kind() {
	case 'n':
		return nil
	case '{':
	default:
		return errHeaders
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		f := upstream.Field{Name: name.String()}
		value, err := dec.ReadToken()
		if err != nil {
			return err
		}
		if value.Kind() != '"' {
			return errHeaders
		}
		f.Value = value.String()
		*h = append(*h, f)
	}
	_, err = dec.ReadToken()
	return err
}

var errHeaders = errors.New("headers must be an object of strings")

// parse reads and validates a request. The call is filled in as far as it could be read, for the audit log.
func parse(frame []byte) (c call, f *decision.Failure) {
	var m message
	if err := json.Unmarshal(frame, &m); err != nil {
		return c, unreadable(frame, err)
	}
	c.method = "GET"
	if m.Method != "" {
		c.method = strings.ToUpper(m.Method)
	}
	if !methodAllowed(c.method) {
		c.method = ""
		return c, decision.Invalid("Method not allowed: %s", decision.Clip(m.Method))
	}
	if c.url, f = decision.ParseURL(m.URL); f != nil {
		return c, f
	}
	if f = c.setTimes(m); f != nil {
		return c, f
	}
	c.fields, f = headers.OfFrame(m.Headers, c.url)
	c.body = []byte(m.Body)
	return c, f
}

func methodAllowed(m string) bool {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH":
		return true
	}
	return false
}

// unreadable says why a frame could not be read: what is no JSON object breaks the protocol, a field of a wrong type
// is the request's own fault. Python writes NaN and Infinity, which JSON lacks.
func unreadable(frame []byte, err error) *decision.Failure {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && semantic.JSONPointer != "" {
		return decision.Invalid("Invalid value for field '%s'", decision.Clip(strings.TrimPrefix(string(semantic.JSONPointer), "/")))
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return decision.Invalid("A name stands twice in the request: %s", decision.Clip(strings.TrimPrefix(string(syntactic.JSONPointer), "/")))
		}
		at := min(max(syntactic.ByteOffset, 0), int64(len(frame)))
		rest := strings.TrimLeft(string(frame[at:min(at+32, int64(len(frame)))]), " \t\r\n:-")
		if strings.HasPrefix(rest, "NaN") || strings.HasPrefix(rest, "Infinity") {
			return decision.Invalid("Numbers must be finite")
		}
	}
	return decision.Protocol("Request is not a JSON object")
}

// setTimes takes the timeouts over. Each bounds what it is called after, whichever others there are; what isn't given has its
// default, but for the whole of a request of which a part is bounded: that may take as long as any.
func (c *call) setTimes(m message) (f *decision.Failure) {
	for _, t := range []struct {
		given *float64
		to    *time.Duration
	}{{m.Timeout, &c.total}, {m.Connect, &c.connect}, {m.Read, &c.read}} {
		if t.given == nil {
			continue
		}
		if *t.to, f = duration(*t.given); f != nil {
			return f
		}
	}
	parts := m.Connect != nil || m.Read != nil
	switch {
	case m.Timeout != nil:
	case parts:
		c.total = maxTimeout
		c.connect, c.read = cmp.Or(c.connect, defaultConnect), cmp.Or(c.read, defaultTimeout)
	default:
		c.total = defaultTimeout
	}
	return nil
}

func duration(seconds float64) (time.Duration, *decision.Failure) {
	switch {
	case math.IsNaN(seconds) || math.IsInf(seconds, 0):
		return 0, decision.Invalid("Numbers must be finite")
	case seconds > maxTimeout.Seconds():
		return 0, decision.Invalid("Timeout too large: %s > %s", decimal(seconds), decimal(maxTimeout.Seconds()))
	case seconds <= 0:
		return 0, decision.Invalid("Timeout must be positive: %s", decimal(seconds))
	}
	return max(time.Duration(seconds*float64(time.Second)), 1), nil
}

// decimal writes a number as Python does, which packs' logs are used to: 121.0.
func decimal(v float64) string {
	if math.Abs(v) >= 1e16 {
		return strconv.FormatFloat(v, 'e', -1, 64)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// setTraceParent replaces the value of the field traceparent, which must be there.
func (c *call) setTraceParent(value string) {
	for i, f := range c.fields {
		if strings.EqualFold(f.Name, "traceparent") {
			c.fields[i].Value = value
		}
	}
}
