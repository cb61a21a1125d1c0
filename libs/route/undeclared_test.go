package route_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

var failing = route.New[idRequest, response]("GET", "/api/things/{id}/failing", roster.Secrets, route.Quick, access.ReadHealth, "Fail").
	Fails("state_forbids", "pack_not_found")

// A public route that answers a code which it doesn't declare is reported, and no other.
func TestUndeclaredCodesAreReported(t *testing.T) {
	var mu sync.Mutex
	var reported []string
	var answered error
	suite := servicetest.New(t, roster.Secrets)
	servicetest.Start(suite, roster.Secrets, func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		route.Undeclared = func(name, code, message string) { // in the place of servicetest's own, which fails the test
			mu.Lock()
			defer mu.Unlock()
			reported = append(reported, name+" "+code+" "+message)
		}
		h := route.NewHandlers(route.NewTable(failing).Fail("store_unavailable"))
		route.Handle(h, failing, func(context.Context, idRequest) (response, error) { return response{}, answered })
		return h.Mount(rt.Mux())
	}, nil)
	client := suite.Client(roster.Gateway, roster.Secrets)
	for _, c := range []struct {
		answered error
		query    string
		want     []string
	}{
		{nil, "", nil},
		{fault.PackNotFound(), "", nil},
		{fault.StoreUnavailable("secrets"), "", nil},              // declared for the whole table
		{fault.PackNotFound(), "?nothing=1", nil},                 // unknown_parameter, which every route has
		{fault.Invalid("Invalid id").With("invalid_id"), "", nil}, // of its path
		{fault.InvalidPrincipal(), "", []string{"GET /api/things/{id}/failing invalid_principal_id Invalid principal_id"}},
		{fault.Conflict("Sticky"), "", []string{"GET /api/things/{id}/failing conflict Sticky"}},
	} {
		answered, reported = c.answered, nil
		resp, err := client.Get("https://secrets/api/things/x/failing" + c.query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		mu.Lock()
		if !slices.Equal(reported, c.want) {
			t.Errorf("for %v, %q were reported, want %q", c.answered, reported, c.want)
		}
		mu.Unlock()
	}
}

// Every route has the codes of its place and its own, each once.
func TestErrorCodes(t *testing.T) {
	of := failing.Route()
	got := of.ErrorCodes()
	for _, want := range []string{"invalid_id", "pack_not_found", "service_unavailable", "state_forbids", "unauthorized"} {
		if !slices.Contains(got, want) {
			t.Errorf("the codes are %v, want %s among them", got, want)
		}
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("the codes are %v, want them sorted, each once", got)
	}
}
