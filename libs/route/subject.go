package route

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
)

// Place is the part of a request in which a value travels.
type Place string

// The places.
const (
	InPath  Place = "path"
	InQuery Place = "query"
	InBody  Place = "body"
)

// Subject says where the requests of a route name the one pack that they are about: {InPath, "pack_id"}. Tokens can be narrowed to packs, so
// the gateway must know the pack before the owner of the route hears of the request. The zero value stands for a route whose requests name
// no pack, or several at once.
type Subject struct {
	Place Place
	Name  string // of the path's variable, the parameter or the JSON member
	index []int  // of the field in the request type, which may be within an embedded struct
}

// The names under which requests name a pack. A candidate key has the pack as its first part: "x:requirements.lock:<sha256>".
const (
	packID       = "pack_id"
	principalID  = "principal_id"
	candidateKey = "candidate_key"
)

// Subject finds out where requests name their pack, by the fields of the request type.
func (r *Route) Subject() Subject {
	var found []Subject
	for _, f := range reflect.VisibleFields(r.Request) {
		member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		for _, s := range []Subject{{InPath, f.Tag.Get("path"), f.Index}, {InQuery, f.Tag.Get("query"), f.Index}, {InBody, member, f.Index}} {
			if s.Name == packID || s.Name == principalID || s.Name == candidateKey {
				found = append(found, s)
			}
		}
	}
	if len(found) != 1 { // of several, who knows which one the owner will act on
		return Subject{}
	}
	return found[0]
}

// Named is the pack that a request names in its path or query, "" where it names none or one that stands twice.
func (s Subject) Named(of *Route, req *http.Request) string {
	switch s.Place {
	case InPath:
		for name, escaped := range of.Values(req.URL.EscapedPath()) {
			if value, err := url.PathUnescape(escaped); name == s.Name && err == nil {
				return s.pack(value)
			}
		}
	case InQuery:
		if values, err := url.ParseQuery(req.URL.RawQuery); err == nil && len(values[s.Name]) == 1 {
			return s.pack(values[s.Name][0])
		}
	}
	return ""
}

// InRequest is the pack that a body names. decoded is a value of the route's request type, read as the owner reads it: what a reader of another
// kind makes of the same bytes could be another pack.
func (s Subject) InRequest(decoded reflect.Value) string {
	if s.Place != InBody {
		return ""
	}
	field := decoded.FieldByIndex(s.index)
	if field.Kind() != reflect.String {
		return ""
	}
	return s.pack(field.String())
}

func (s Subject) pack(value string) string {
	if s.Name != candidateKey {
		return value
	}
	pack, _, ok := strings.Cut(value, ":")
	if !ok {
		return ""
	}
	return pack
}

// Reads says whether a call of the route changes nothing: its verb is one of those that read. POST /api/network/check is such a call.
func (r *Route) Reads() bool { return strings.HasSuffix(string(r.Verb), ".read") }
