// Package client calls Rumi's public API as an operator's program does: through the gateway, with an API token.
//
//	c, err := client.New("https://rumi.example", client.TokenFile("/run/secrets/rumi_token"))
//	packs, err := c.Approval.List(ctx)
//	_, err = c.Approval.Approve(ctx, approval.ApproveRequest{PackID: "my_pack", Digest: reviewed})
//	if client.IsCode(err, "digest_mismatch") { … }
//
// There is a method for each public endpoint, grouped by the package under api/ that declares it: endpoints.go is generated from the same
// declarations that services and gateway serve. Services call each other by libs/rpc/client, not by this package.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/text"
)

// Bounds of answers that are read whole, in bytes.
const (
	maxAnswer  = 512 << 20
	maxFailure = 1 << 20
)

// defaultAttempts is how often a call is sent at most, where Attempts doesn't say.
const defaultAttempts = 4

// TokenSource gives the token of a call. It is asked for each attempt, so that a token may be replaced while the program runs.
type TokenSource func(context.Context) (string, error)

// Token is a TokenSource of one token.
func Token(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// TokenFile reads the token from a file each time: init's is user_data/settings/api_token. White space around it doesn't count.
func TokenFile(path string) TokenSource {
	return func(context.Context) (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the API token: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
}

// Client calls one gateway. It is safe for concurrent use.
type Client struct {
	groups

	base     string
	token    TokenSource
	http     *http.Client
	attempts int
}

// Option changes how a Client calls.
type Option func(*Client)

// HTTP has the client send its requests by h: for a certificate authority of one's own, a proxy, a time-out. A Timeout of h also ends streams that
// are followed. Redirects are not followed, whatever h says: the API has none, and the token is for the gateway alone.
func HTTP(h *http.Client) Option { return func(c *Client) { c.http = h } }

// Attempts bounds how often one call is sent, 1 or more. See Call.
func Attempts(n int) Option { return func(c *Client) { c.attempts = n } }

// New makes a client of the gateway at base: "http://localhost:8765". Nothing is sent before the first call.
func New(base string, token TokenSource, options ...Option) (*Client, error) {
	parsed, err := url.Parse(base)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" || parsed.RawQuery != "" {
		return nil, fmt.Errorf("make a client of the API: %q is no address of a gateway, such as http://localhost:8765", base)
	}
	c := &Client{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{}, attempts: defaultAttempts}
	for _, option := range options {
		option(c)
	}
	if c.attempts < 1 {
		return nil, fmt.Errorf("make a client of the API: want one attempt or more, not %d", c.attempts)
	}
	own := *c.http
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &own
	c.groups = newGroups(c)
	return c, nil
}

// Error is a call that the API refused, or that something between refused.
type Error struct {
	Status     int
	Code       string // the error_code; "" where the answer is none of Rumi's, such as that of a proxy
	Message    string // for a person
	RequestID  string // the X-Request-Id, which logs and audit entries have
	RetryAfter time.Duration
	Data       jsontext.Value // null, but for the few failures that have something to show
}

// Error says what is wrong, with the code.
func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// IsCode says whether err is or wraps an Error with one of the codes.
func IsCode(err error, codes ...string) bool {
	e, ok := errors.AsType[*Error](err)
	for _, code := range codes {
		if ok && e.Code == code {
			return true
		}
	}
	return false
}

// Call sends a request to an endpoint and returns the answer's data; a failure is an *Error. The methods of the groups are Calls.
//
// A call that was not begun (429 rate_limited) is sent again, and so is one that may be repeated (GET, PUT, DELETE) and was answered 503: after
// the time in Retry-After, as often as Attempts says, and only if that time is within ctx's.
func Call[Req, Resp any](ctx context.Context, c *Client, e route.Endpoint[Req, Resp], req Req) (Resp, error) {
	call, err := newCall(c, e, req)
	if err != nil {
		var none Resp
		return none, err
	}
	return receive[Resp](ctx, call)
}

// receive sends a call and reads the data of its answer.
func receive[Resp any](ctx context.Context, call *call) (Resp, error) {
	var data Resp
	response, err := call.send(ctx)
	if err != nil {
		return data, err
	}
	defer response.Body.Close()
	answer := struct {
		Data *Resp `json:"data"`
	}{&data}
	if err := json.UnmarshalRead(io.LimitReader(response.Body, maxAnswer), &answer); err != nil {
		return data, fmt.Errorf("call %s: read the answer: %w", call.name, err)
	}
	return data, nil
}

// call is one call, which may be sent several times.
type call struct {
	client       *Client
	name         string // of the route, for errors
	method, path string
	body         []byte                  // JSON; nil for none
	stream       func() (*upload, error) // of a form, in the place of body; it can be sent once
	accept       string
	requestID    string
}

func newCall[Req, Resp any](c *Client, e route.Endpoint[Req, Resp], req Req) (*call, error) {
	of := e.Route()
	path, body, err := route.Parts(e, req)
	if err != nil {
		return nil, err
	}
	made := &call{client: c, name: of.Name(), method: of.Method, path: path, accept: "application/json", requestID: origin.NewRequestID()}
	if body != nil {
		// A field that is zero is left out: that means the same, and for some fields nothing else does (scopes: [] would be a token without rights).
		if made.body, err = json.Marshal(body, json.OmitZeroStructFields(true)); err != nil {
			return nil, fmt.Errorf("call %s: encode the request: %w", made.name, err)
		}
	}
	return made, nil
}

// send sends the call until it succeeds or may not be repeated. The caller closes the answer's body.
func (c *call) send(ctx context.Context) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		response, err := c.once(ctx)
		if err != nil {
			return nil, fmt.Errorf("call %s: %w", c.name, err)
		}
		if response.StatusCode < 300 {
			return response, nil
		}
		failure := readFailure(response)
		if attempt >= c.client.attempts || !c.repeatable(failure) || !sleep(ctx, failure.RetryAfter) {
			return nil, failure
		}
	}
}

// repeatable says whether the call may be sent again after a failure.
func (c *call) repeatable(failure *Error) bool {
	switch {
	case c.stream != nil:
		return false // what was read of it is gone
	case failure.Status == http.StatusTooManyRequests:
		return failure.Code == "rate_limited" // not too_many_failures: the token stays wrong
	case failure.Status != http.StatusServiceUnavailable:
		return false
	}
	return c.method == http.MethodGet || c.method == http.MethodPut || c.method == http.MethodDelete
}

// sleep waits, but not where ctx would end first.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *call) once(ctx context.Context) (*http.Response, error) {
	token, err := c.client.token(ctx)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	contentType := "application/json"
	switch {
	case c.stream != nil:
		form, err := c.stream()
		if err != nil {
			return nil, err
		}
		body, contentType = form, form.contentType
	case c.body != nil:
		body = bytes.NewReader(c.body)
	}
	request, err := http.NewRequestWithContext(ctx, c.method, c.client.base+c.path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", c.accept)
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set(rpc.RequestIDHeader, c.requestID)
	return c.client.http.Do(request)
}

// readFailure reads and closes an answer that is no success.
func readFailure(response *http.Response) *Error {
	defer response.Body.Close()
	failure := &Error{Status: response.StatusCode, RequestID: response.Header.Get(rpc.RequestIDHeader)}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		failure.RetryAfter = time.Duration(seconds) * time.Second
	} else if response.StatusCode == http.StatusServiceUnavailable {
		failure.RetryAfter = time.Second
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxFailure))
	var answer rpc.Answer
	if err != nil || json.Unmarshal(body, &answer) != nil || answer.Error == nil {
		failure.Message = fmt.Sprintf("%s, which is no answer of Rumi's: %s", http.StatusText(response.StatusCode), text.Clip(text.Escape(string(body)), 200))
		return failure
	}
	failure.Code, failure.Message, failure.Data = answer.ErrorCode, *answer.Error, answer.Data
	return failure
}
