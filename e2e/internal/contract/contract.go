// Package contract checks what passes between operators' programs and a suite against the suite's OpenAPI document: as a proxy between them, which
// changes nothing. Whatever a test asks, it tests the document, too.
package contract

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/libs/openapi"
	"github.com/rumi-ai/rumi/libs/route"
)

// maxBody bounds the bodies that are checked, in bytes. Larger ones pass unchecked: the point is their form, not their size.
const maxBody = 4 << 20

// rules are a document as it is checked. They never change.
type rules struct {
	document  *openapi.Document
	validator validator.Validator
	paths     map[string]*v3.PathItem
	matcher   *route.Matcher
}

// Checker knows a document and what was seen of it. It is safe for concurrent use.
type Checker struct {
	*rules

	queue chan exchange
	done  chan struct{}

	mu         sync.Mutex
	checked    map[[32]byte]bool // exchanges that differ in nothing that matters
	seen       map[string]bool   // "GET /api/packs 200", and with a failure's code "GET /api/packs 503 busy"
	violations []string
	exchanges  int
}

// exchange is a request with its answer.
type exchange struct {
	route         *route.Route
	method, uri   string
	header        http.Header
	body          []byte // empty where there is none, nil where it is not checked
	status        int
	answerHeader  http.Header
	answer        []byte
	answerChecked bool // false for a stream, and for what is too large
}

// New makes a Checker. It fails where the document is no valid OpenAPI 3.1. It takes seconds: the validator compiles every schema.
func New(document []byte) (*Checker, error) {
	r, err := newRules(document)
	if err != nil {
		return nil, err
	}
	return start(r), nil
}

// start makes a Checker that has seen nothing.
func start(r *rules) *Checker {
	c := &Checker{rules: r, queue: make(chan exchange, 1024), done: make(chan struct{}), checked: map[[32]byte]bool{}, seen: map[string]bool{}}
	go c.run()
	return c
}

func newRules(document []byte) (*rules, error) {
	parsed, err := openapi.Parse(document)
	if err != nil {
		return nil, err
	}
	parsed.Close()
	closed, err := parsed.JSON()
	if err != nil {
		return nil, err
	}
	doc, err := libopenapi.NewDocument(closed)
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions(), config.WithoutSecurityValidation())
	if len(errs) > 0 {
		return nil, fmt.Errorf("read the document: %w", errs[0])
	}
	if ok, failures := v.ValidateDocument(); !ok {
		return nil, fmt.Errorf("the document is no valid OpenAPI: %s", strings.Join(texts(failures), "; "))
	}
	matcher, err := route.NewMatcher(api.Routes().Public())
	if err != nil {
		return nil, err
	}
	r := &rules{document: parsed, validator: v, paths: map[string]*v3.PathItem{}, matcher: matcher}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		r.paths[path] = item
	}
	return r, nil
}

// Proxy passes requests on to target, a base address, and checks what it sees. A connection that breaks breaks for the client, too.
func (c *Checker) Proxy(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			host := r.In.Host
			r.SetURL(target)
			r.Out.Host = host
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, sent := r.In.Header[name]; sent { // httputil takes them out
					r.Out.Header[name] = values
				}
			}
		},
		Transport:      &http.Transport{Proxy: nil, DisableCompression: true},
		FlushInterval:  -1,
		ModifyResponse: c.observe,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// Handler is Proxy with what it needs before: the body of a request that is to be checked.
func (c *Checker) Handler(target *url.URL) http.Handler {
	proxy := c.Proxy(target)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") || r.ContentLength > maxBody {
			proxy.ServeHTTP(w, r) // streamed
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if len(body) > 0 {
			r.Body = &rejoined{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
		}
		if len(body) <= maxBody {
			r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, body))
		}
		proxy.ServeHTTP(w, r)
	})
}

// bodyKey is where the context of a request has its body, if that is to be checked.
type bodyKey struct{}

// rejoined is a body of which a part was read already.
type rejoined struct {
	io.Reader
	io.Closer
}

// observe keeps an exchange, and has it checked later.
func (c *Checker) observe(response *http.Response) error {
	r := response.Request
	found, _ := c.matcher.Find(r.Method, r.URL.EscapedPath())
	e := exchange{route: found, method: r.Method, uri: r.URL.RequestURI(), header: r.Header.Clone(), status: response.StatusCode, answerHeader: response.Header.Clone()}
	e.body, _ = r.Context().Value(bodyKey{}).([]byte)
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") && r.Method != http.MethodHead && response.ContentLength <= maxBody {
		read, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
		if err != nil {
			return err
		}
		response.Body = &rejoined{io.MultiReader(bytes.NewReader(read), response.Body), response.Body}
		e.answer, e.answerChecked = read, len(read) <= maxBody
	}
	c.queue <- e
	return nil
}

func (c *Checker) run() {
	defer close(c.done)
	for e := range c.queue {
		c.check(&e)
	}
}

// check looks at an exchange, unless it has seen the same before.
func (c *Checker) check(e *exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exchanges++
	if e.route == nil {
		c.checkUnrouted(e)
		return
	}
	name := e.route.Name() + " " + strconv.Itoa(e.status)
	c.seen[name] = true
	if code := codeOf(e.answer); e.status >= 400 && code != "" {
		c.seen[name+" "+code] = true
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s", name, e.uri, e.body, e.answer))
	if c.checked[key] {
		return
	}
	c.checked[key] = true
	for _, failure := range c.validate(e) {
		c.violation(name + ": " + failure)
	}
}

// checkUnrouted looks at the answer to a path or a method that the API doesn't have.
func (c *Checker) checkUnrouted(e *exchange) {
	if !strings.HasPrefix(e.uri, "/api/") || !e.answerChecked {
		return
	}
	known := append(route.ConnectionCodes(), "unauthorized", "rate_limited", "too_many_failures", "tokens_unavailable", "origin_refused")
	if code := codeOf(e.answer); !slices.Contains(known, code) {
		c.violation(fmt.Sprintf("%s %s, which is no call: answered %d with the code %q", e.method, e.uri, e.status, code))
	}
}

func (c *Checker) violation(text string) {
	if !slices.Contains(c.violations, text) {
		c.violations = append(c.violations, text)
	}
}

// validate compares an exchange with the document. A request that was refused may well be wrong; one that was answered must be what the
// document allows, or the API takes more than it says.
func (c *Checker) validate(e *exchange) []string {
	item := c.paths[e.route.Pattern]
	if item == nil {
		return []string{"the document lacks it"}
	}
	method := e.method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	request, err := http.NewRequest(method, "http://rumi.example"+e.uri, bytes.NewReader(e.body))
	if err != nil {
		return []string{err.Error()}
	}
	request.Header = e.header
	if len(e.body) > 0 {
		request.Header.Set("Content-Type", "application/json") // what the API reads it as, whatever a client calls it
	}
	all := c.undeclared(e)
	if e.status < 300 && e.body != nil {
		if ok, failures := c.validator.ValidateHttpRequestSyncWithPathItem(request, item, e.route.Pattern); !ok {
			all = append(all, texts(failures)...)
		}
	}
	if !e.answerChecked {
		return all
	}
	response := &http.Response{StatusCode: e.status, Header: e.answerHeader, Body: io.NopCloser(bytes.NewReader(e.answer)), Request: request}
	if ok, failures := c.validator.GetResponseBodyValidator().ValidateResponseBodyWithPathItem(request, response, item, e.route.Pattern); !ok {
		all = append(all, texts(failures)...)
	}
	return all
}

// undeclared are the parameters of a query that was answered and that the document doesn't have.
func (c *Checker) undeclared(e *exchange) []string {
	op := c.document.Operation(e.route.Method, e.route.Pattern)
	if e.status >= 300 || op == nil {
		return nil
	}
	_, query, _ := strings.Cut(e.uri, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return []string{err.Error()}
	}
	var all []string
	for name := range values {
		if !slices.ContainsFunc(op.Parameters, func(p openapi.Parameter) bool { return p.In == "query" && p.Name == name }) {
			all = append(all, fmt.Sprintf("the query has the parameter %s, which the document lacks", name))
		}
	}
	return all
}

// texts are failures, each on one line.
func texts(failures []*errors.ValidationError) []string {
	var all []string
	for _, failure := range failures {
		text := failure.Message + ": " + failure.Reason
		for _, detail := range failure.SchemaValidationErrors {
			text += fmt.Sprintf("; %s at %s", detail.Reason, detail.FieldPath)
		}
		all = append(all, strings.Join(strings.Fields(text), " "))
	}
	return all
}

// codeOf is the error_code of an answer, "" for none.
func codeOf(answer []byte) string {
	var failure struct {
		Code string `json:"error_code"`
	}
	if json.Unmarshal(answer, &failure) != nil {
		return ""
	}
	return failure.Code
}

// Close waits until all that was seen is checked. Nothing may pass afterwards.
func (c *Checker) Close() {
	close(c.queue)
	<-c.done
}

// Violations are what was seen and isn't in the document, each once. Call it after Close.
func (c *Checker) Violations() []string { return c.violations }

// Report says how much of the document was seen, and which statuses and error codes of single calls never were. Call it after Close.
func (c *Checker) Report() string {
	var lines strings.Builder
	var statuses, codes tally
	for path, item := range c.document.Paths.All() {
		if !strings.HasPrefix(path, "/api/") {
			continue
		}
		for method, op := range item.Operations() {
			name := method + " " + path
			unseen := append(c.unseenStatuses(name, op, &statuses), c.unseenCodes(name, op, &codes)...)
			if len(unseen) > 0 {
				fmt.Fprintf(&lines, "  %s: %s\n", name, strings.Join(unseen, ", "))
			}
		}
	}
	return fmt.Sprintf("%d exchanges were checked against the document of the API. Seen were %v documented statuses and %v error codes of single calls. Never seen:\n%s",
		c.exchanges, statuses, codes, &lines)
}

// tally counts what was seen of all there is.
type tally struct{ seen, all int }

func (t *tally) count(seen bool) bool {
	t.all++
	if seen {
		t.seen++
	}
	return seen
}

// String is "12 of 40".
func (t tally) String() string { return fmt.Sprintf("%d of %d", t.seen, t.all) }

func (c *Checker) unseenStatuses(name string, op *openapi.Operation, of *tally) []string {
	var unseen []string
	for _, r := range op.Responses {
		if !of.count(c.seen[name+" "+r.Name]) {
			unseen = append(unseen, r.Name)
		}
	}
	return unseen
}

func (c *Checker) unseenCodes(name string, op *openapi.Operation, of *tally) []string {
	var unseen []string
	for _, code := range op.Codes {
		known, _ := c.document.Codes.Get(code)
		seen := slices.ContainsFunc(known.Statuses, func(status int) bool { return c.seen[fmt.Sprintf("%s %d %s", name, status, code)] })
		if !of.count(seen) {
			unseen = append(unseen, code)
		}
	}
	return unseen
}
