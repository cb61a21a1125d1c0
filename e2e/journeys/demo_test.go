package journeys

import (
	"strings"
	"testing"
	"time"
)

// The demo passes again and again, also after the suite was taken down and up, which loses nothing.
func TestDemo(t *testing.T) {
	const pack = "keeper"
	plainPack(pack).place(t, pack)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+pack+"/approve", nil)
	post(t, "/api/network/grant", map[string]any{"pack_id": pack, "allowed_domains": []string{"api.example.com"}, "allowed_ports": []int{443}})
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": pack, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"KEPT"}}})
	post(t, "/api/secrets/set", map[string]any{"key": "KEPT", "value": "for ever"})

	demo(t)
	demo(t)

	before := state(t)
	if _, err := suite.compose(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := suite.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("down and up again: ready in %v", time.Since(began).Round(time.Millisecond))
	for path, was := range before {
		if now := string(get(t, path).Data); now != was {
			t.Errorf("%s was %s, is %s", path, was, now)
		}
	}
	demo(t)
}

// demo runs `make demo`'s script against the suite.
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
	if err := suite.ready(t.Context()); err != nil {
		t.Fatalf("after the demo: %v", err)
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
