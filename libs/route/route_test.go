package route_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

type request struct {
	ID     string `json:"-" path:"id"`
	Filter string `json:"-" query:"filter"`
	Tail   int64  `json:"-" query:"tail"`
	All    bool   `json:"-" query:"all"`
	Text   string `json:"text,omitzero"`
}

type response struct {
	Got string `json:"got"`
}

type idRequest struct {
	ID string `json:"-" path:"id"`
}

var (
	echo   = route.Internal[request, response]("POST", "/internal/things/{id}", roster.Secrets, roster.Approval)
	plain  = route.Internal[idRequest, route.Stream]("GET", "/internal/things/{id}/raw", roster.Secrets, roster.Approval)
	list   = route.New[struct{}, []string]("GET", "/api/things", roster.Secrets, route.Quick, access.ReadHealth, "Show things")
	status = route.New[idRequest, response]("GET", "/api/things/{id}/status", roster.Secrets, route.Quick, access.ReadHealth, "Show things")
	staged = route.New[idRequest, response]("GET", "/api/things/staged/{id}", roster.Secrets, route.Quick, access.ReadHealth, "Show things")
)

// serve starts a service with what bind binds of the endpoints.
func serve(t *testing.T, table route.Table, bind func(*route.Handlers)) *servicetest.Suite {
	t.Helper()
	suite := servicetest.New(t, roster.Secrets)
	servicetest.Start(suite, roster.Secrets, func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		h := route.NewHandlers(table)
		bind(h)
		return h.Mount(rt.Mux())
	}, nil)
	return suite
}

func say(text string) func(context.Context, idRequest) (response, error) {
	return func(_ context.Context, req idRequest) (response, error) { return response{text + " " + req.ID}, nil }
}

// What Call writes is what the handler reads, whatever characters it has.
func TestCallIsTheInverseOfDecode(t *testing.T) {
	var got request
	suite := serve(t, route.NewTable(echo, plain), func(h *route.Handlers) {
		route.Handle(h, echo, func(_ context.Context, req request) (response, error) {
			got = req
			return response{req.Text}, nil
		})
		route.HandleStream(h, plain, func(w http.ResponseWriter, _ *http.Request, req idRequest) error {
			_, err := io.WriteString(w, "raw "+req.ID)
			return err
		})
	})
	peer := suite.Peer(roster.Approval, roster.Secrets)
	for _, want := range []request{
		{ID: "a"},
		{ID: "a/b c%2f?d#e", Filter: "x&y=z é", Tail: -3, All: true, Text: `"quoted"`},
		{ID: "a:b", Filter: " "},
	} {
		answer, err := route.Call(t.Context(), peer, echo, want)
		if err != nil || got != want || answer.Got != want.Text {
			t.Errorf("Call(%+v): the handler got %+v; answer %q, error %v", want, got, answer.Got, err)
		}
	}
	if _, err := route.Call(t.Context(), peer, echo, request{}); err == nil {
		t.Error("Call without an id: got no error")
	}
	opened, err := route.Open(t.Context(), peer, plain, idRequest{ID: "x y"})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Body.Close()
	if text, err := io.ReadAll(opened.Body); err != nil || string(text) != "raw x y" {
		t.Errorf("Open answered %q, %v; want %q", text, err, "raw x y")
	}
}

// Only the declared callers are admitted, and patterns that http.ServeMux would refuse beside each other are told apart.
func TestMount(t *testing.T) {
	suite := serve(t, route.NewTable(staged, list, status), func(h *route.Handlers) {
		route.Handle(h, status, say("status"))
		route.Handle(h, staged, say("staged"))
		route.Handle(h, list, func(context.Context, struct{}) ([]string, error) { return []string{"list"}, nil })
	})
	for _, c := range []struct{ as, path, want string }{
		{"gateway", "/api/things", `["list"]`},
		{"approval", "/api/things", "Caller not allowed"},
		{"gateway", "/api/things/a%20b/status", `"status a b"`},
		{"approval", "/api/things/a/status", "Caller not allowed"},
		{"gateway", "/api/things/staged/a%20b", `"staged a b"`},
		{"gateway", "/api/things/staged/status", `"status staged"`},
		{"gateway", "/api/things/a/b", "Not found"},
	} {
		response, err := suite.Client(c.as, roster.Secrets).Get("https://secrets" + c.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !strings.Contains(string(body), c.want) {
			t.Errorf("GET %s as %s: got %d %s, %v; want %s", c.path, c.as, response.StatusCode, body, err, c.want)
		}
	}
}

func TestTablesThatCannotBeMounted(t *testing.T) {
	type inBodyToo struct {
		ID string `path:"id"`
	}
	otherwise := route.Internal[idRequest, response]("GET", "/api2/things/{id}/status", roster.Secrets, roster.Approval)
	for want, h := range map[string]*route.Handlers{
		"GET /api/things has no handler":                         bound(route.NewTable(list), func(*route.Handlers) {}),
		"GET /api/things has a handler, but is not in the table": bound(nil, bindList),
		"GET /api/things has two handlers":                       bound(route.NewTable(list), func(h *route.Handlers) { bindList(h); bindList(h) }),
		"secrets declares GET /api/things twice":                 bound(route.NewTable(list, list), bindList),
		"has the names [id], the request type fields for []":     bound(route.NewTable(route.New[struct{}, response]("GET", "/api/{id}", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		"has the names [], the request type fields for [id]":     bound(route.NewTable(route.New[idRequest, response]("GET", "/api/x", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		`the field for "id" lacks the tag json:"-"`:              bound(route.NewTable(route.New[inBodyToo, response]("GET", "/api/{id}", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		`"vault" is no service of the roster`:                    bound(route.NewTable(route.New[struct{}, response]("GET", "/api/x", "vault", route.Quick, access.ReadHealth, "Show things")), nil),
		`the caller "vault" is no service of the roster`:         bound(route.NewTable(route.Internal[struct{}, response]("GET", "/x", roster.Secrets, "vault")), nil),
		"no service may call it":                                 bound(route.NewTable(route.Internal[struct{}, response]("GET", "/x", roster.Secrets)), nil),
		"is called by the gateway only":                          bound(route.NewTable(route.Internal[struct{}, response]("GET", "/api/x", roster.Secrets, roster.Approval)), nil),
		"the method is not one of":                               bound(route.NewTable(route.New[struct{}, response]("PATCH", "/api/x", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		"the request type string is no struct":                   bound(route.NewTable(route.New[string, response]("GET", "/api/x", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		"the pattern does not begin with a slash":                bound(route.NewTable(route.New[struct{}, response]("GET", "api/x", roster.Secrets, route.Quick, access.ReadHealth, "Show things")), nil),
		"GET /api2/things/{id}/status has no handler":            bound(route.NewTable(list, otherwise), bindList),
	} {
		if err := h.Mount(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Mount: got %v, want an error with %q", err, want)
		}
	}
}

func bindList(h *route.Handlers) {
	route.Handle(h, list, func(context.Context, struct{}) ([]string, error) { return nil, nil })
}

func bound(table route.Table, bind func(*route.Handlers)) *route.Handlers {
	h := route.NewHandlers(table)
	if bind != nil {
		bind(h)
	}
	return h
}

// From the end, a word beats a name, whatever the order of the table.
func TestMatcher(t *testing.T) {
	table := route.NewTable(staged, status, list,
		route.New[idRequest, response]("GET", "/api/things/{id}", roster.Approval, route.Quick, access.ReadHealth, "Show things"),
		route.New[struct{}, response]("GET", "/api/things/waiting", roster.Secrets, route.Quick, access.ReadHealth, "Show things"),
		route.New[struct{}, response]("POST", "/api/things/scan", roster.Secrets, route.Quick, access.ReadHealth, "Show things"),
		route.New[idRequest, response]("DELETE", "/api/things/{id}", roster.Secrets, route.Quick, access.ReadHealth, "Show things"),
	)
	matcher, err := route.NewMatcher(table)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, want, allow string }{
		{"GET", "/api/things", "GET /api/things", ""},
		{"HEAD", "/api/things", "GET /api/things", ""},
		{"GET", "/api/things/x", "GET /api/things/{id}", ""},
		{"GET", "/api/things/waiting", "GET /api/things/waiting", ""},
		{"DELETE", "/api/things/waiting", "DELETE /api/things/{id}", ""},
		{"GET", "/api/things/staged/x", "GET /api/things/staged/{id}", ""},
		{"GET", "/api/things/staged/status", "GET /api/things/{id}/status", ""},
		{"GET", "/api/things/scan", "", "POST DELETE"}, // a word that no GET reads is no name for a GET
		{"PUT", "/api/things", "", "GET"},
		{"GET", "/api/nothing", "", ""},
		{"GET", "", "", ""},
	} {
		found, allow := matcher.Find(c.method, c.path)
		got := ""
		if found != nil {
			got = found.Name()
		}
		if got != c.want || strings.Join(allow, " ") != c.allow {
			t.Errorf("%s %s: got %q, allow %v; want %q, %s", c.method, c.path, got, allow, c.want, c.allow)
		}
	}
}
