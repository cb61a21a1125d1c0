// Package route declares endpoints as data: method, path, the service that answers, the services that may call, the time and size
// that a call may take, and the types of request and response. An endpoint is declared once, in the package of its owner under api/:
//
//	var Reject = route.New[RejectRequest, Decision]("POST", "/api/packs/{pack_id}/reject", Service, route.Slow,
//		access.RejectPacks, "Reject a pack")
//
// From that one declaration come the owner's mux (Handlers), the client (Call, Open), the gateway's table (Matcher) and the tests that
// compare the documents with the code.
//
// The fields of a request type say where their values travel: path:"pack_id" in the path, query:"tail" in the query, a json tag in the
// body. Fields of path and query have the tag json:"-", so that the body doesn't repeat them. See rpc.Decode.
package route

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/roster"
)

// publicPrefix is what the paths begin with that the gateway hands on.
const publicPrefix = "/api/"

// Class bounds what the gateway lets a call of a public route take.
type Class struct {
	Timeout time.Duration // for the whole exchange, once the request has been read
	Upload  int64         // bytes of a multipart body; 0 where none is taken
	Follow  bool          // with ?follow=true, Timeout bounds the wait for the answer's beginning only
	Always  bool          // it follows without being asked to
}

// The classes of public routes.
var (
	Quick   = Class{Timeout: 15 * time.Second}                    // answers from memory or a database
	Slow    = Class{Timeout: 2 * time.Minute}                     // reads or copies whole trees, or waits for Docker
	Install = Class{Timeout: 30 * time.Minute}                    // downloads and builds
	Upload  = Class{Timeout: 30 * time.Minute, Upload: 500 << 20} // contract.md, "Import"
	Logs    = Class{Timeout: 15 * time.Second, Follow: true}      // answers lines, or follows them

	Events = Class{Follow: true, Always: true} // of the gateway's own: answers events until somebody ends the answer
)

// Route is an endpoint without its types of Go: what tables, routers and documents need.
type Route struct {
	Method  string
	Pattern string   // of http.ServeMux, without the method: "/api/packs/{pack_id}/approve"
	Owner   string   // the service that answers
	Callers []string // the services that may call; everybody else is answered 403
	Class   Class    // of a public route; the zero value for an internal one, and for those that the gateway answers itself

	Verb    access.Verb // that a caller of a public route needs; "" for an internal one
	Summary string      // of a public route, for documents: "Reject a pack"

	Narrows bool // see Endpoint.Narrows

	Document Document // of a public route: errors, events, …

	Request  reflect.Type // a struct; see the package comment
	Response reflect.Type // of the answer's data, or Stream
}

// Name is method and pattern, as logs, metrics and documents have it: "POST /api/packs/{pack_id}/approve".
func (r *Route) Name() string { return r.Method + " " + r.Pattern }

// Public says whether operators call the route through the gateway. Any other is called by services only.
func (r *Route) Public() bool { return strings.HasPrefix(r.Pattern, publicPrefix) }

// Stream is the response type of routes whose answer is no envelope: a tar archive, NDJSON.
type Stream struct{}

// Streams says whether the answer is a stream of events, and never anything else.
func (r *Route) Streams() bool { return r.Class.Always }

// Endpoint is a Route with its types. Req is a struct.
type Endpoint[Req, Resp any] struct{ route Route }

// Route is the endpoint as data.
func (e Endpoint[Req, Resp]) Route() Route { return e.route }

// New declares a public endpoint: operators call it through the gateway, nobody else does. owner is a name of the roster, verb what the
// caller must be allowed to do, summary one line for documents, without a full stop.
func New[Req, Resp any](method, pattern, owner string, class Class, verb access.Verb, summary string) Endpoint[Req, Resp] {
	e := Internal[Req, Resp](method, pattern, owner, roster.Gateway)
	e.route.Class, e.route.Verb, e.route.Summary = class, verb, summary
	return e
}

// Narrows declares that the endpoint shows each caller only what his scopes cover. So the gateway hands requests on that name no pack, also of
// tokens that are for some packs only; the endpoint must compare each thing that it shows with the caller's scopes.
func (e Endpoint[Req, Resp]) Narrows() Endpoint[Req, Resp] {
	e.route.Narrows = true
	return e
}

// Internal declares an endpoint that only the named services call.
func Internal[Req, Resp any](method, pattern, owner string, callers ...string) Endpoint[Req, Resp] {
	return Endpoint[Req, Resp]{Route{
		Method: method, Pattern: pattern, Owner: owner, Callers: callers,
		Request: reflect.TypeFor[Req](), Response: reflect.TypeFor[Resp](),
	}}
}

// Declaration is an Endpoint of any types.
type Declaration interface{ Route() Route }

// Table lists the endpoints of a service. Its order means nothing to a Matcher; documents may follow it.
type Table []Route

// NewTable makes a Table of endpoints.
func NewTable(endpoints ...Declaration) Table {
	table := make(Table, len(endpoints))
	for i, e := range endpoints {
		table[i] = e.Route()
	}
	return table
}

// Public is the part of the table that operators call.
func (t Table) Public() Table {
	var public Table
	for _, r := range t {
		if r.Public() {
			public = append(public, r)
		}
	}
	return public
}

// Check finds declarations that can't work: an unknown service or method, a route that is declared twice by one owner, a name in a
// pattern without a field for it, a field of the path that no name fills, a field of path or query that would be in the body, too.
func (t Table) Check() error {
	seen := map[string]bool{}
	for i := range t {
		r := &t[i]
		if seen[r.Owner+" "+r.Name()] {
			return fmt.Errorf("check routes: %s declares %s twice", r.Owner, r.Name())
		}
		seen[r.Owner+" "+r.Name()] = true
		if err := r.check(); err != nil {
			return fmt.Errorf("check routes: %s of %s: %w", r.Name(), r.Owner, err)
		}
	}
	return nil
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}

func (r *Route) check() error {
	switch {
	case !slices.Contains(methods, r.Method):
		return fmt.Errorf("the method is not one of %v", methods)
	case !strings.HasPrefix(r.Pattern, "/"):
		return fmt.Errorf("the pattern does not begin with a slash")
	case !roster.Has(r.Owner):
		return fmt.Errorf("%q is no service of the roster", r.Owner)
	case r.Public() && !slices.Equal(r.Callers, []string{roster.Gateway}):
		return fmt.Errorf("a public route is called by the gateway only, not by %v", r.Callers)
	case r.Public() && !r.Verb.Known():
		return fmt.Errorf("a public route needs a verb of libs/access, not %q", r.Verb)
	case r.Public() && r.Summary == "":
		return fmt.Errorf("a public route needs a summary")
	case len(r.Callers) == 0:
		return fmt.Errorf("no service may call it")
	}
	for _, caller := range r.Callers {
		if !roster.Has(caller) {
			return fmt.Errorf("the caller %q is no service of the roster", caller)
		}
	}
	if err := r.checkClass(); err != nil {
		return err
	}
	return r.checkRequest()
}

// checkClass compares the class with what is said about the request and the answer.
func (r *Route) checkClass() error {
	switch {
	case r.Class.Follow != (r.Document.Event != nil):
		return fmt.Errorf("a route of the classes Logs and Events, and no other, needs Follows")
	case r.Class.Always != (r.Class.Follow && r.Response == reflect.TypeFor[Stream]()):
		return fmt.Errorf("a route of the class Events, and no other that follows, answers a Stream")
	case (r.Class.Upload > 0) != (r.Document.Form != nil):
		return fmt.Errorf("a route of the class Upload, and no other, needs TakesForm")
	}
	return nil
}

func (r *Route) checkRequest() error {
	if r.Request == nil || r.Request.Kind() != reflect.Struct {
		return fmt.Errorf("the request type %v is no struct", r.Request)
	}
	var names, fields []string
	for segment := range strings.SplitSeq(r.Pattern, "/") {
		if isName(segment) {
			names = append(names, strings.Trim(segment, "{}"))
		}
	}
	for _, f := range fieldsOf(r.Request) {
		if f.in != inBody && r.Request.Field(f.index).Tag.Get("json") != "-" {
			return fmt.Errorf("the field for %q lacks the tag json:\"-\"", f.name)
		}
		if f.in == inPath {
			fields = append(fields, f.name)
		}
	}
	slices.Sort(names)
	slices.Sort(fields)
	if !slices.Equal(names, fields) {
		return fmt.Errorf("the path has the names %v, the request type fields for %v", names, fields)
	}
	return nil
}

// isName says whether a segment of a pattern stands for any value: {pack_id}.
func isName(segment string) bool { return strings.HasPrefix(segment, "{") }
