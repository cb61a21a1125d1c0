package journeys

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An uninstall that failed in part, because a service was down, is one that nobody can go back on by accident: until it was repeated
// the pack can't be scanned, applied or approved back to what it was granted. What is installed after it begins with nothing.
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
		t.Errorf("uninstall without egress-proxy answered %v, %v", a, err)
	}
	if _, err := suite.compose(t.Context(), "start", "egress-proxy"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyWait)
	defer cancel()
	if err := suite.answers(ctx, "egress-proxy"); err != nil {
		t.Fatal(err)
	}

	post(t, "/api/packs/scan", nil)
	if s := status(t, id); s != "error" {
		t.Errorf("after a scan it is %s", s)
	}
	if waiting := string(get(t, "/api/packs/pending").Data); strings.Contains(waiting, `"`+id+`"`) {
		t.Errorf("it waits for a decision: %s", waiting)
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
		told := strings.Contains(a.Error, "its uninstall is incomplete: repeat `DELETE /api/packs/"+id+"`")
		if start := strings.HasPrefix(path, "/api/containers/"); err != nil || start && a.Status != 403 || !start && (a.Status != 409 || !told) {
			t.Errorf("%s got %v, %v; want 403 of a container, and else 409 that says how to finish the uninstall", path, a, err)
		}
	}

	a, err := suite.api.Delete(t.Context(), "/api/packs/"+id)
	must(t, a, err)
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 404 {
		t.Errorf("uninstall of what is gone answered %v, %v", a, err)
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

// A pack whose ecosystem.json was spoilt is put right by a rollback, and waits for a decision.
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
	// Both are the operator's doing: what is below ecosystem/ is theirs to edit.
	descriptor := filepath.Join(suite.home, "ecosystem", id, "ecosystem.json")
	if err := os.Remove(descriptor); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(descriptor, []byte("{"), 0o664); err != nil {
		t.Fatal(err)
	}
	post(t, "/api/packs/scan", nil)
	if s := status(t, id); s != "modified" {
		t.Errorf("spoilt, it is %s, want modified", s)
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
		t.Errorf("rolled back, it is %s", s)
	}
	post(t, "/api/packs/"+id+"/approve", nil)
	a, err := suite.api.Delete(t.Context(), "/api/packs/"+id)
	must(t, a, err)
}
