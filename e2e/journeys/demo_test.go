package journeys

import (
	"context"
	"strings"
	"testing"
	"time"
)

// operatorPacks are packs of an operator, each with a grant and a secret. One has the same names as the demo's example.
var operatorPacks = []struct{ pack, domain, secret string }{
	{"keeper", "api.example.com", "KEPT"},
	{"forecast", "forecast.rumi.test", "FORECAST_API_KEY"},
}

// TestDemo runs the demo twice. It must pass each time, and change nothing of the operator's suite: no pack of the same name, no grant,
// secret or data, no service. Then the suite is taken down and up, which must lose nothing.
func TestDemo(t *testing.T) {
	for _, o := range operatorPacks {
		plainPack(o.pack).copyToEcosystem(t, o.pack)
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
	before, services := visibleState(t), runningServices(t)
	runDemo(t)
	runDemo(t)
	compareState(t, before)
	if now := runningServices(t); now != services {
		t.Errorf("after the demo the suite's containers are\n%s\nwant those of before:\n%s", now, services)
	}

	if _, err := suite.compose(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := suite.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("down and up again: ready in %v", time.Since(began).Round(time.Millisecond))
	compareState(t, before)
}

// compareState fails the test if a path of the API answers other data than before.
func compareState(t *testing.T, before map[string]string) {
	t.Helper()
	for path, was := range before {
		if now := string(get(t, path).Data); now != was {
			t.Errorf("%s is %s, want %s", path, now, was)
		}
	}
}

// runningServices returns a line for each container of the suite: its name, and when it started.
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

// runDemo runs the script of `make demo` beside the suite.
func runDemo(t *testing.T) {
	t.Helper()
	began := time.Now()
	out, err := suite.command(t.Context(), buildWait, "deploy/demo/run")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the demo took %v", time.Since(began).Round(time.Millisecond))
	if !strings.Contains(out, "no surprise") {
		t.Fatalf("the demo printed\n%s\nwant a line with \"no surprise\"", out)
	}
}

// visibleState returns what the API shows of packs, grants and secrets, by path.
func visibleState(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, path := range []string{"/api/packs", "/api/network/list", "/api/capability/grants", "/api/secrets"} {
		all[path] = string(get(t, path).Data)
	}
	return all
}
