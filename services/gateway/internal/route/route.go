// Package route finds the service that owns a public path, and refuses values in paths that no id has.
package route

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/route"
)

// Route is a declared endpoint.
type Route = route.Route

// Class is that of a declared endpoint.
type Class = route.Class

// Routes are the public endpoints of all services, the gateway's own among them.
var Routes = api.Routes().Public()

// Table finds routes.
type Table struct{ matcher *route.Matcher }

// NewTable makes a table. It fails where two routes of one method fit the same paths.
func NewTable(routes []Route) (*Table, error) {
	matcher, err := route.NewMatcher(routes)
	return &Table{matcher}, err
}

// Find gives the route of a request, by its path as it came, escapes and all. A HEAD goes where a GET would. The fault
// says that the path is unknown, or the method (then allow lists those that are), or that a name in the path holds
// what no name may.
func (t *Table) Find(r *http.Request) (found *Route, allow []string, err error) {
	path := r.URL.EscapedPath()
	found, allow = t.matcher.Find(r.Method, path)
	switch {
	case found != nil:
		return found, nil, check(found, path)
	case allow != nil:
		return nil, allow, fault.MethodNotAllowed()
	default:
		return nil, nil, fault.NoRoute()
	}
}

// check refuses values that no id has and that a proxy, a router or a file system might take for something else.
func check(r *Route, path string) error {
	for name, segment := range r.Values(path) {
		if !safe(segment) {
			return invalid(r.Pattern, name)
		}
	}
	return nil
}

// invalid is the answer to a value that can't be what the pattern's segment names, as its owner would give it.
func invalid(pattern, name string) error {
	switch {
	case name == "candidate_key" && strings.HasPrefix(pattern, "/api/pip/"):
		return fault.InvalidCandidateKey(fault.LockKeyForm)
	case name == "candidate_key":
		return fault.InvalidCandidateKey(fault.HandlerKeyForm)
	}
	return fault.Invalid("Invalid %s", name).With("invalid_" + name)
}

// maxValue bounds a value in a path, in bytes: the longest candidate key is well under it.
const maxValue = 512

func safe(segment string) bool {
	value, err := url.PathUnescape(segment)
	if err != nil || value == "" || len(value) > maxValue {
		return false
	}
	for i := range len(value) {
		// A percent sign is what is left of an escape that was escaped again.
		if c := value[i]; c < ' ' || c == 0x7f || c == '%' || c == '\\' {
			return false
		}
	}
	for part := range strings.SplitSeq(value, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return true
}
