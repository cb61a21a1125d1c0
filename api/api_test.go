package api_test

import (
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Every service of the roster declares its endpoints, each can work, and no two services answer one public path.
func TestTables(t *testing.T) {
	all := api.Routes()
	if err := all.Check(); err != nil {
		t.Error(err)
	}
	owners := map[string]bool{}
	for _, r := range all {
		owners[r.Owner] = true
	}
	for _, name := range roster.Names() {
		if !owners[name] {
			t.Errorf("%s declares no endpoint: is its table missing in api.go?", name)
		}
	}
	if _, err := route.NewMatcher(all.Public()); err != nil {
		t.Error(err)
	}
}

// The gateway asks each service that keeps files, and no other, how much room they take.
func TestStorage(t *testing.T) {
	var owners []string
	for _, r := range api.Routes() {
		if r.Name() == "GET /internal/storage" {
			owners = append(owners, r.Owner)
		}
	}
	slices.Sort(owners)
	if want := roster.Where(func(s roster.Service) bool { return s.StoresFiles }); !slices.Equal(owners, want) {
		t.Errorf("GET /internal/storage is declared by %v, want %v", owners, want)
	}
}

// Every public call but the gateway's own has a bound of time.
func TestClasses(t *testing.T) {
	for _, r := range api.Routes().Public() {
		if bounded := r.Class.Timeout > 0; bounded == (r.Owner == roster.Gateway) {
			t.Errorf("%s of %s: the timeout is %v, want one, but for the gateway's own", r.Name(), r.Owner, r.Class.Timeout)
		}
	}
}
