package journeys

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUninstallIncomplete uninstalls a pack while a service is down, so that the uninstall ends in part. Until it is repeated, no scan, apply
// or approve may bring the pack back, because it would still have its grants. A pack that is installed afterwards must have no grants.
func TestUninstallIncomplete(t *testing.T) {
	const id = "leaver"
	if err := os.WriteFile(filepath.Join(suite.home, "user_data/import/leaver.zip"), plainPack(id).zip(t, id), 0o644); err != nil {
		t.Fatal(err)
	}
	stage := func() string {
		return field(t, string(post(t, "/api/packs/import", map[string]any{"path": "user_data/import/leaver.zip"}).Data), "staging_id")
	}
	install := func() {
		post(t, "/api/packs/apply", map[string]any{"staging_id": stage()})
		post(t, "/api/packs/"+id+"/approve", nil)
	}
	network := map[string]any{"pack_id": id, "allowed_domains": []string{"api.example.com"}, "allowed_ports": []int{443}}
	capability := map[string]any{"principal_id": id, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"A"}}}
	check := func() string {
		return string(post(t, "/api/network/check", map[string]any{"pack_id": id, "domain": "api.example.com", "port": 443}).Data)
	}
	grants := func() string { return string(get(t, "/api/capability/grants?principal_id="+id).Data) }

	install()
	post(t, "/api/network/grant", network)
	post(t, "/api/capability/grants/grant", capability)
	if answer := check(); !strings.Contains(answer, "Access granted") {
		t.Fatalf("once granted: got %s, want access granted", answer)
	}
	staged := stage()

	if _, err := suite.compose(t.Context(), "stop", "egress-proxy"); err != nil {
		t.Fatal(err)
	}
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 503 || !strings.HasPrefix(a.Error, "Uninstall incomplete, repeat it: ") {
		t.Errorf("uninstall without egress-proxy answered %v, %v; want 503 that says to repeat it", a, err)
	}
	if _, err := suite.compose(t.Context(), "start", "egress-proxy"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyWait)
	defer cancel()
	if err := suite.awaitService(ctx, "egress-proxy"); err != nil {
		t.Fatal(err)
	}

	post(t, "/api/packs/scan", nil)
	if s := status(t, id); s != "error" {
		t.Errorf("after a scan the pack is %q, want error", s)
	}
	if waiting := string(get(t, "/api/packs/pending").Data); strings.Contains(waiting, `"`+id+`"`) {
		t.Errorf("the pending packs are %s, want them without %s", waiting, id)
	}
	for path, body := range map[string]any{
		"/api/packs/" + id + "/approve":    nil,
		"/api/packs/" + id + "/reject":     map[string]any{"reason": "no"},
		"/api/packs/apply":                 map[string]any{"staging_id": staged},
		"/api/network/grant":               network,
		"/api/capability/grants/grant":     capability,
		"/api/containers/" + id + "/start": nil,
	} {
		a, err := suite.api.Post(t.Context(), path, body)
		explained := strings.Contains(a.Error, "its uninstall is incomplete: repeat `DELETE /api/packs/"+id+"`")
		if start := strings.HasPrefix(path, "/api/containers/"); err != nil || start && a.Status != 403 || !start && (a.Status != 409 || !explained) {
			t.Errorf("%s got %v, %v; want 403 of a container, and else 409 that says how to finish the uninstall", path, a, err)
		}
	}

	a, err := suite.api.Delete(t.Context(), "/api/packs/"+id)
	must(t, a, err)
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 404 {
		t.Errorf("the uninstall of an uninstalled pack answered %v, %v; want 404", a, err)
	}
	install()
	if answer := check(); !strings.Contains(answer, "No network grant for this pack") {
		t.Errorf("installed anew: got %s, want no network grant", answer)
	}
	if answer := grants(); strings.Contains(answer, "secrets.get") {
		t.Errorf("installed anew: got the grants %s, want none of secrets.get", answer)
	}
	a, err = suite.api.Delete(t.Context(), "/api/packs/"+id)
	must(t, a, err)
}

// TestRollbackOfASpoiltPack damages the ecosystem.json of a pack. A rollback must restore it, and the pack must wait for a decision.
func TestRollbackOfASpoiltPack(t *testing.T) {
	const id = "spoilt"
	archive := filepath.Join(suite.home, "user_data/import/spoilt.zip")
	if err := os.WriteFile(archive, plainPack(id).zip(t, id), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		staged := field(t, string(post(t, "/api/packs/import", map[string]any{"path": "user_data/import/spoilt.zip"}).Data), "staging_id")
		post(t, "/api/packs/apply", map[string]any{"staging_id": staged})
	}
	post(t, "/api/packs/"+id+"/approve", nil)
	// Operators may edit files under ecosystem/.
	descriptor := filepath.Join(suite.home, "ecosystem", id, "ecosystem.json")
	if err := os.Remove(descriptor); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(descriptor, []byte("{"), 0o664); err != nil {
		t.Fatal(err)
	}
	post(t, "/api/packs/scan", nil)
	if s := status(t, id); s != "modified" {
		t.Errorf("with a damaged ecosystem.json the pack is %q, want modified", s)
	}
	var all struct {
		Backups []struct {
			Backup string `json:"backup"`
		} `json:"backups"`
	}
	if err := get(t, "/api/packs/"+id+"/backups").Into(&all); err != nil || len(all.Backups) != 1 {
		t.Fatalf("the backups are %+v, %v; want one", all, err)
	}
	post(t, "/api/packs/"+id+"/rollback", map[string]any{"backup": all.Backups[0].Backup})
	if s := status(t, id); s != "modified" {
		t.Errorf("after the rollback the pack is %q, want modified", s)
	}
	post(t, "/api/packs/"+id+"/approve", nil)
	a, err := suite.api.Delete(t.Context(), "/api/packs/"+id)
	must(t, a, err)
}
