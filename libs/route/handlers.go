package route

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Handlers collects the handlers of a table until Mount. Handle, HandleStream and HandleRaw add to it.
type Handlers struct {
	table  Table
	bound  map[string]http.Handler // by the route's name
	errors []error
}

// NewHandlers begins with no handler.
func NewHandlers(table Table) *Handlers {
	return &Handlers{table: table, bound: map[string]http.Handler{}}
}

// Handle has fn answer e: the request is decoded by rpc.Decode, what fn returns is the answer's data.
func Handle[Req, Resp any](h *Handlers, e Endpoint[Req, Resp], fn func(context.Context, Req) (Resp, error)) {
	h.bind(&e.route, rpc.Handle(fn))
}

// HandleStream has fn answer e, and write the answer itself. The request is decoded before; errors are answered as by rpc.Raw.
func HandleStream[Req, Resp any](h *Handlers, e Endpoint[Req, Resp], fn func(w http.ResponseWriter, r *http.Request, req Req) error) {
	HandleRaw(h, e, func(w http.ResponseWriter, r *http.Request) error {
		req, err := rpc.Decode[Req](r)
		if err != nil {
			return err
		}
		return fn(w, r, req)
	})
}

// HandleRaw has fn answer e, and read the request and write the answer itself.
func HandleRaw[Req, Resp any](h *Handlers, e Endpoint[Req, Resp], fn func(w http.ResponseWriter, r *http.Request) error) {
	h.bind(&e.route, rpc.Raw(fn))
}

func (h *Handlers) bind(r *Route, handler http.Handler) {
	name := r.Name()
	switch _, twice := h.bound[name]; {
	case twice:
		h.errors = append(h.errors, fmt.Errorf("%s has two handlers", name))
	case !slices.ContainsFunc(h.table, func(t Route) bool { return t.Owner == r.Owner && t.Name() == name }):
		h.errors = append(h.errors, fmt.Errorf("%s has a handler, but is not in the table", name))
	}
	h.bound[name] = handler
}

// Mount serves the table on mux. It fails where the table can't work (see Table.Check), where a route has no handler or two, and where
// a handler was added for a route that is not in the table: a service that would answer 404 to what others count on doesn't start.
func (h *Handlers) Mount(mux *server.Mux) error {
	failures := slices.Clone(h.errors)
	failures = append(failures, h.table.Check())
	for i := range h.table {
		r := &h.table[i]
		switch name := r.Name(); {
		case h.bound[name] == nil:
			failures = append(failures, fmt.Errorf("%s has no handler", name))
		case Undeclared != nil && r.Public():
			h.bound[name] = checkCodes(r, h.bound[name], Undeclared)
		}
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("mount routes: %w", err)
	}
	for _, group := range h.overlapping() {
		if err := h.mount(mux, group); err != nil {
			return fmt.Errorf("mount routes: %w", err)
		}
	}
	return nil
}

// overlapping puts routes together of which neither is more special than the other for http.ServeMux, which would refuse them:
// GET /api/packs/{pack_id}/backups and GET /api/packs/staging/{staging_id} both fit the backups of a pack called staging. Most groups
// are of one route.
func (h *Handlers) overlapping() []Table {
	var groups []Table
	for _, r := range h.table {
		at := slices.IndexFunc(groups, func(group Table) bool {
			return slices.ContainsFunc(group, func(other Route) bool { return overlap(&r, &other) })
		})
		if at < 0 {
			groups = append(groups, Table{r})
		} else {
			groups[at] = append(groups[at], r)
		}
	}
	return groups
}

func overlap(a, b *Route) bool {
	x, y := strings.Split(a.Pattern, "/"), strings.Split(b.Pattern, "/")
	if a.Method != b.Method || len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] != y[i] && !isName(x[i]) && !isName(y[i]) {
			return false // no path fits both
		}
	}
	return !covers(x, y) && !covers(y, x)
}

// mount serves a group: one route as it is, several behind a pattern that fits them all, where a Matcher chooses.
func (h *Handlers) mount(mux *server.Mux, group Table) error {
	first := &group[0]
	if len(group) == 1 {
		mux.Route(first.Name(), h.bound[first.Name()], first.Callers...)
		return nil
	}
	for _, r := range group[1:] {
		if !slices.Equal(r.Callers, first.Callers) {
			return fmt.Errorf("%s and %s fit the same paths, but have different callers", first.Name(), r.Name())
		}
	}
	matcher, err := NewMatcher(group)
	if err != nil {
		return err
	}
	choose := func(w http.ResponseWriter, r *http.Request) {
		found, _ := matcher.Find(first.Method, r.URL.EscapedPath())
		if found == nil {
			rpc.WriteError(r.Context(), w, fault.NoRoute())
			return
		}
		for name, escaped := range found.Values(r.URL.EscapedPath()) {
			if value, err := url.PathUnescape(escaped); err == nil { // http.ServeMux has unescaped it already
				r.SetPathValue(name, value)
			}
		}
		h.bound[found.Name()].ServeHTTP(w, r)
	}
	mux.Route(first.Method+" "+joint(group), http.HandlerFunc(choose), first.Callers...)
	return nil
}

// joint is a pattern that fits every path of the group: "/api/packs/{pack_id}/{staging_id}".
func joint(group Table) string {
	var segments []string
	for i, segment := range strings.Split(group[0].Pattern, "/") {
		for _, r := range group[1:] {
			if other := strings.Split(r.Pattern, "/")[i]; other != segment && !isName(segment) {
				segment = other
			}
		}
		if isName(segment) && slices.Contains(segments, segment) { // http.ServeMux takes a name once only
			segment = fmt.Sprintf("{%s_%d}", strings.Trim(segment, "{}"), i)
		}
		segments = append(segments, segment)
	}
	return strings.Join(segments, "/")
}
