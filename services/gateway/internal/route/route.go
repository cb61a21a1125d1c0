// Package route says which service owns a public path, as a table.
package route

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Route is a method and a path and who answers them.
type Route struct {
	Method  string
	Pattern string // segments are literal or {name}
	Service string // "" for the gateway itself
	Class   Class
}

// Class is how much a route may take.
type Class struct {
	Timeout time.Duration // for the whole exchange, once the request has been read
	Upload  int64         // bytes of a multipart body; 0 where none is taken
	Follow  bool          // with ?follow=true, Timeout is for the beginning of the answer only
}

// Table finds routes.
type Table struct {
	byDepth [][]compiled // the index is the number of segments
}

type compiled struct {
	*Route
	segments []string // without the leading slash; those that begin with { are names
	names    bool     // some are
}

// NewTable makes a table. Where two routes of one method fit the same path, the earlier one has it: "/packs/{id}/status" before
// "/packs/staging/{staging_id}" has the status of a pack called staging. It fails where the later one would be left with no path.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{}
	for i := range routes {
		path, ok := strings.CutPrefix(routes[i].Pattern, "/")
		if !ok {
			return nil, fmt.Errorf("make routes: %q does not begin with a slash", routes[i].Pattern)
		}
		segments := strings.Split(path, "/")
		next := compiled{&routes[i], segments, slices.ContainsFunc(segments, named)}
		depth := len(next.segments)
		for len(t.byDepth) <= depth {
			t.byDepth = append(t.byDepth, nil)
		}
		for _, other := range t.byDepth[depth] {
			if other.Method == next.Method && covers(other.segments, next.segments) {
				return nil, fmt.Errorf("make routes: %s %s has no path that %s leaves to it", next.Method, next.Pattern, other.Pattern)
			}
		}
		t.byDepth[depth] = append(t.byDepth[depth], next)
	}
	return t, nil
}

// covers says whether every path of b fits a, too. They have the same number of segments.
func covers(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] && !named(a[i]) {
			return false
		}
	}
	return true
}

func named(segment string) bool { return strings.HasPrefix(segment, "{") }

// Find gives the route of a request, by its path as it came, escapes and all. A HEAD goes where a GET would. The fault
// says that the path is unknown, or the method (then allow lists those that are), or that a name in the path holds
// what no name may.
func (t *Table) Find(r *http.Request) (found *Route, allow []string, err error) {
	path := r.URL.EscapedPath()
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	word := false // the path is a word of the API, such as /api/packs/scan, that is read by no method: no GET takes it for a name
	depth := strings.Count(path, "/")
	if depth >= len(t.byDepth) {
		return nil, nil, fault.NoRoute()
	}
	for i := range t.byDepth[depth] {
		candidate := &t.byDepth[depth][i]
		if !candidate.fits(path) {
			continue
		}
		if candidate.Method == method && !(method == http.MethodGet && word) {
			return candidate.Route, nil, candidate.check(path)
		}
		word = word || !candidate.names
		if candidate.Method != method {
			allow = append(allow, candidate.Method)
		}
	}
	if allow != nil {
		return nil, allow, fault.MethodNotAllowed()
	}
	return nil, nil, fault.NoRoute()
}

// fits says whether path, which has as many slashes as the route has segments, is one of its paths.
func (c *compiled) fits(path string) bool {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return false
	}
	for _, want := range c.segments {
		var segment string
		segment, rest, _ = strings.Cut(rest, "/")
		if !named(want) && segment != want {
			return false
		}
	}
	return true
}

// check refuses values that no id has and that a proxy, a router or a file system might take for something else.
func (c *compiled) check(path string) error {
	rest := path[1:]
	for _, want := range c.segments {
		var segment string
		segment, rest, _ = strings.Cut(rest, "/")
		if named(want) && !safe(segment) {
			return invalid(c.Pattern, strings.Trim(want, "{}"))
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
