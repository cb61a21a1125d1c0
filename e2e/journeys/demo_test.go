package journeys

import (
	"context"
	"strings"
	"testing"
	"time"
)

// operators are packs, grants and secrets of an operator, the demo's own examples among them.
var operators = []struct{ pack, domain, secret string }{
	{"keeper", "api.example.com", "KEPT"},
	{"forecast", "forecast.rumi.test", "FORECAST_API_KEY"},
}

// The demo passes again and again, and touches nothing of the operator's: not a pack of the same name, its grants, its secret
// or its data, and no service. Taking the suite down and up loses nothing either.
func TestDemo(t *testing.T) {
	for _, o := range operators {
		plainPack(o.pack).place(t, o.pack)
		post(t, "/api/packs/scan", nil)
		post(t, "/api/packs/"+o.pack+"/approve", nil)
		post(t, "/api/network/grant", map[string]any{"pack_id": o.pack, "allowed_domains": []string{o.domain}, "allowed_ports": []int{443}})
		post(t, "/api/capability/grants/grant", map[string]any{"principal_id": o.pack, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{o.secret}}})
		post(t, "/api/secrets/set", map[string]any{"key": o.secret, "value": "for ever"})
		t.Cleanup(func() {
			if a, err := suite.api.Delete(context.WithoutCancel(t.Context()), "/api/packs/"+o.pack); err != nil || a.Status != 200 {
				t.Errorf("the removal of %s got %v, %v; want 200", o.pack, a, err)
			}
		})
	}
	before, services := state(t), runningServices(t)
	demo(t)
	demo(t)
	unchanged(t, before)
	if now := runningServices(t); now != services {
		t.Errorf("the demo touched services: they were\n%s, are\n%s", services, now)
	}

	if _, err := suite.compose(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := suite.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("down and up again: ready in %v", time.Since(began).Round(time.Millisecond))
	unchanged(t, before)
}

// unchanged compares what each service knows with what it knew.
func unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	for path, was := range before {
		if now := string(get(t, path).Data); now != was {
			t.Errorf("%s is %s, want %s", path, now, was)
		}
	}
}

// runningServices names each container of the suite and when it started.
func runningServices(t *testing.T) string {
	t.Helper()
	ids, err := suite.compose(t.Context(), "ps", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	out, err := suite.command(t.Context(), commandWait, "docker", append([]string{"inspect", "--format", "{{.Name}} {{.State.StartedAt}}"}, strings.Fields(ids)...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// demo runs `make demo`'s script beside the suite.
func demo(t *testing.T) {
	t.Helper()
	began := time.Now()
	out, err := suite.command(t.Context(), buildWait, "deploy/demo/run")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the demo took %v", time.Since(began).Round(time.Millisecond))
	if !strings.Contains(out, "no surprise") {
		t.Fatalf("it ended without saying how it went:\n%s", out)
	}
}

// state is what each service says it knows.
func state(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, path := range []string{"/api/packs", "/api/network/list", "/api/capability/grants", "/api/secrets"} {
		all[path] = string(get(t, path).Data)
	}
	return all
}
