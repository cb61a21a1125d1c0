package route

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
)

// Matcher finds the route of a path.
//
// Where the patterns of two routes fit one path, the last segment in which they differ decides: a word beats a name. So
// GET /api/packs/staging/status is the status of a pack called staging ("/api/packs/{pack_id}/status" before
// "/api/packs/staging/{staging_id}"), and GET /api/packs/pending is no pack called pending.
type Matcher struct {
	byDepth [][]compiled // the index is the number of segments; the more special pattern is before the other
}

type compiled struct {
	route    *Route
	segments []string // without the leading slash
	names    bool     // some are names
}

// NewMatcher fails where two routes of one method fit the same paths, and where a pattern has no leading slash.
func NewMatcher(table Table) (*Matcher, error) {
	m := &Matcher{}
	for i := range table {
		path, ok := strings.CutPrefix(table[i].Pattern, "/")
		if !ok {
			return nil, fmt.Errorf("make routes: %q does not begin with a slash", table[i].Pattern)
		}
		segments := strings.Split(path, "/")
		next := compiled{&table[i], segments, slices.ContainsFunc(segments, isName)}
		depth := len(segments)
		for len(m.byDepth) <= depth {
			m.byDepth = append(m.byDepth, nil)
		}
		for _, other := range m.byDepth[depth] {
			if other.route.Method == next.route.Method && covers(other.segments, segments) && covers(segments, other.segments) {
				return nil, fmt.Errorf("make routes: %s (%s) and %s (%s) fit the same paths", other.route.Name(), other.route.Owner, next.route.Name(), next.route.Owner)
			}
		}
		m.byDepth[depth] = append(m.byDepth[depth], next)
	}
	for _, same := range m.byDepth {
		slices.SortStableFunc(same, func(a, b compiled) int { return bySpecialty(a.segments, b.segments) })
	}
	return m, nil
}

// bySpecialty sorts patterns with as many segments: from the end, at the first segment of which one is a word and the other a name, the
// word is first. Patterns with words at the same segments stay as they are; no path fits two of them.
func bySpecialty(a, b []string) int {
	for i := len(a) - 1; i >= 0; i-- {
		switch {
		case !isName(a[i]) && isName(b[i]):
			return -1
		case isName(a[i]) && !isName(b[i]):
			return 1
		}
	}
	return 0
}

// covers says whether every path of b fits a, too. They have the same number of segments.
func covers(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] && !isName(a[i]) {
			return false
		}
	}
	return true
}

// Find gives the route of a method and a path; the path is as it came, escapes and all: words of patterns are compared with it byte by
// byte. A HEAD goes where a GET would. Without a route, allow lists the methods of the path; nil where no method has it.
func (m *Matcher) Find(method, path string) (found *Route, allow []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	depth := strings.Count(path, "/")
	if depth >= len(m.byDepth) {
		return nil, nil
	}
	word := false // the path is a word of the API, such as /api/packs/scan, that is read by no method: no GET takes it for a name
	for i := range m.byDepth[depth] {
		candidate := &m.byDepth[depth][i]
		if !candidate.fits(path) {
			continue
		}
		if candidate.route.Method == method && (method != http.MethodGet || !word) {
			return candidate.route, nil
		}
		word = word || !candidate.names
		if candidate.route.Method != method {
			allow = append(allow, candidate.route.Method)
		}
	}
	return nil, allow
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
		if !isName(want) && segment != want {
			return false
		}
	}
	return true
}

// Values yields the names of the pattern's variables with the segments of path at their positions. path must match the route. The segments
// are escaped, as in path.
func (r *Route) Values(path string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		rest := path
		for want := range strings.SplitSeq(r.Pattern, "/") {
			var segment string
			segment, rest, _ = strings.Cut(rest, "/")
			if isName(want) && !yield(strings.Trim(want, "{}"), segment) {
				return
			}
		}
	}
}
