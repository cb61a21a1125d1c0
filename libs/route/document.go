package route

import (
	"reflect"
	"slices"
	"strings"
)

// Document is what only the document of the API (/openapi.json) and its checks need to know about a public route.
type Document struct {
	Codes   []string     // error codes of the route's own; see Fails
	Waits   bool         // see OrWaits
	Event   reflect.Type // see Follows; nil where nothing can be followed
	Form    reflect.Type // see TakesForm; nil where no form is taken
	Text    []string     // see AnswersText; nil for an answer that is JSON
	Remarks string       // more than Summary says, for a person; "" for nothing
}

// Fails declares the error codes with which the endpoint can fail, beside those that every route has (SharedCodes):
//
//	var Reject = route.New[RejectRequest, Decision](…).Fails("pack_not_found", "state_forbids")
//
// Each is a row of the table in docs/api.md, which has the code's statuses. A code that isn't declared and answered nevertheless makes the
// service's tests fail (see Undeclared), and those of `make e2e`.
func (e Endpoint[Req, Resp]) Fails(codes ...string) Endpoint[Req, Resp] {
	e.route.Document.Codes = add(e.route.Document.Codes, codes...)
	return e
}

// OrWaits declares that the endpoint may be answered 202, with the same type of data: what was asked is not done before a second person
// confirms it.
func (e Endpoint[Req, Resp]) OrWaits() Endpoint[Req, Resp] {
	e.route.Document.Waits = true
	return e
}

// Follows declares that with ?follow=true the answer is a stream of server-sent events, each with JSON of event's type as its data:
// Follows(Line{}). The answer of the class Events is always that.
func (e Endpoint[Req, Resp]) Follows(event any) Endpoint[Req, Resp] {
	e.route.Document.Event = reflect.TypeOf(event)
	return e
}

// AnswersText declares that a success is answered with text of one of these media types, whichever the client prefers, and not with the envelope.
// The response type is Stream.
func (e Endpoint[Req, Resp]) AnswersText(mediaTypes ...string) Endpoint[Req, Resp] {
	e.route.Document.Text = mediaTypes
	return e
}

// TakesForm declares that the endpoint takes multipart/form-data as well as JSON: TakesForm(ImportForm{}). The fields of form, a struct,
// have json tags with the names of the form's fields; a field of type File is an upload.
func (e Endpoint[Req, Resp]) TakesForm(form any) Endpoint[Req, Resp] {
	e.route.Document.Form = reflect.TypeOf(form)
	return e
}

// Remarks says more about the endpoint than its summary does: whole sentences, for a person.
func (e Endpoint[Req, Resp]) Remarks(sentences string) Endpoint[Req, Resp] {
	e.route.Document.Remarks = sentences
	return e
}

// File is the type of a form's field that is an uploaded file.
type File struct{}

// Fail adds error codes to every public route of the table: those of the service's database, for one.
func (t Table) Fail(codes ...string) Table {
	all := slices.Clone(t)
	for i := range all {
		if all[i].Public() {
			all[i].Document.Codes = add(all[i].Document.Codes, codes...)
		}
	}
	return all
}

// add gives a slice of its own, so that no two endpoints share one.
func add(codes []string, more ...string) []string {
	all := slices.Concat(codes, more)
	slices.Sort(all)
	return slices.Compact(all)
}

// sharedCodes are the error codes that the gateway and rpc.Decode answer on every public route.
var sharedCodes = []string{
	"body_timeout", "body_too_large", "body_unreadable", "internal", "invalid_field", "invalid_json", "invalid_query", "origin_refused",
	"not_allowed", "oidc_unavailable", "rate_limited", "tokens_unavailable", "too_many_failures", "unauthorized", "unknown_field", "unknown_parameter",
}

// ConnectionCodes are the error codes of answers that come before a route is known: what is no request of HTTP/1.1, and paths and methods
// that no route has. The slice is the caller's.
func ConnectionCodes() []string {
	return []string{
		"header_too_large", "https_required", "invalid_http", "method_not_allowed", "not_found", "unsupported_encoding", "unsupported_expectation", "unsupported_version",
	}
}

// SharedCodes are the error codes that a public route has because of its place, whatever it does: those of the gateway and of rpc.Decode, the one
// of a service that doesn't answer, and one for each name in its path. Sorted; the slice is the caller's.
func (r *Route) SharedCodes() []string {
	codes := slices.Clone(sharedCodes)
	if len(r.Callers) > 0 && !slices.Contains(r.Callers, r.Owner) {
		codes = append(codes, "service_unavailable")
	}
	for segment := range strings.SplitSeq(r.Pattern, "/") {
		if isName(segment) {
			codes = append(codes, "invalid_"+strings.Trim(segment, "{}"))
		}
	}
	return add(codes)
}

// ErrorCodes are all error codes that a public route may answer with. Sorted; the slice is the caller's.
func (r *Route) ErrorCodes() []string { return add(r.SharedCodes(), r.Document.Codes...) }

// Example is a request and the data of its answer, for the document of the API.
type Example struct {
	Route    string // its name: "POST /api/packs/{pack_id}/reject"
	Request  any
	Response any
}

// NewExample makes an example of an endpoint's types. A zero request or response is left to the generator, which makes one of the type. The packages under api/ have them in functions, which only the generator of the
// document calls: no service holds them in memory.
func NewExample[Req, Resp any](e Endpoint[Req, Resp], req Req, resp Resp) Example {
	return Example{e.route.Name(), req, resp}
}
