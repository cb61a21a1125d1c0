package journeys

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// command is a command of the original project's guide for operators, as printed there. The contract promises that these still work. A shell
// runs it in the Rumi home.
type command struct {
	text   string
	status int    // the wanted status of the API's answer; 0 for a command that doesn't call the API
	shows  string // a text that the output must contain
}

// guidePack is the pack id in the guide's commands. An operator replaces it by an id of their own.
const guidePack = "my_pack"

// TestGuide runs every command of the guide as written, in an order in which each finds what it needs.
func TestGuide(t *testing.T) {
	handlerFiles := func(slug string) files {
		return files{
			"share/capability_handlers/" + slug + "/handler.json": fmt.Sprintf(`{"handler_id": "%s_handler", "permission_id": "fs.read",
				"entrypoint": "handler.py:execute", "description": "reads", "risk": "low"}`, slug),
			"share/capability_handlers/" + slug + "/handler.py": "def execute(context, args):\n    return {}  # " + slug + "\n",
		}
	}
	pack := plainPack(guidePack).with(handlerFiles("fs_read_v1")).with(handlerFiles("fs_read_v2")).with(files{"requirements.lock": "idna==3.10\n"})
	archive := filepath.Join(suite.home, "user_data/import/my_pack.zip")
	if err := os.WriteFile(archive, pack.zip(t, guidePack), 0o644); err != nil {
		t.Fatal(err)
	}
	g := &guide{replace: map[string]string{
		"http://localhost:8765": suite.base,
		"YOUR_TOKEN":            suite.api.Token,
		"{pack_id}":             guidePack,
		"/path/to/my_pack.zip":  "user_data/import/my_pack.zip",
	}}

	// Import and apply.
	imported := g.run(t, command{`curl -X POST http://localhost:8765/api/packs/import \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"path": "/path/to/my_pack.zip"}'`, 200, `"staging_id"`})
	g.replace["abc123"] = field(t, imported, "staging_id")
	g.run(t, command{`curl -X POST http://localhost:8765/api/packs/apply \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"staging_id": "abc123"}'`, 200, guidePack})

	// A pack of another identity must not replace it.
	impostor := pack.with(files{"ecosystem.json": strings.Replace(pack["ecosystem.json"], "e2e:", "stranger:", 1)})
	if err := os.WriteFile(archive, impostor.zip(t, guidePack), 0o644); err != nil {
		t.Fatal(err)
	}
	staged, err := suite.api.Post(t.Context(), "/api/packs/import", map[string]any{"path": g.replace["/path/to/my_pack.zip"]})
	id := field(t, string(must(t, staged, err).Data), "staging_id")
	if a, err := suite.api.Post(t.Context(), "/api/packs/apply", map[string]any{"staging_id": id}); err != nil || a.Status != 409 || !strings.Contains(a.Error, "pack_identity mismatch") {
		t.Errorf("applying a pack of another identity answered %v, %v; want 409 pack_identity mismatch", a, err)
	}

	pending := command{`curl http://localhost:8765/api/packs/pending \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, guidePack}
	approve := command{`curl -X POST http://localhost:8765/api/packs/{pack_id}/approve \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "approved"}
	g.run(t, pending)
	g.run(t, approve)
	g.run(t, command{`curl -X POST http://localhost:8765/api/packs/{pack_id}/reject \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"reason": "セキュリティ上の懸念"}'`, 200, "セキュリティ上の懸念"})
	g.run(t, approve)

	// Approve a modified pack again.
	if err := os.WriteFile(filepath.Join(suite.home, "ecosystem", guidePack, "new.txt"), []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	post(t, "/api/packs/scan", nil)
	if got := status(t, guidePack); got != "modified" {
		t.Errorf("a pack with a new file is %q, want modified", got)
	}
	g.run(t, approve)

	// Network.
	grant := command{`curl -X POST http://localhost:8765/api/network/grant \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "pack_id": "my_pack",
    "allowed_domains": ["api.openai.com", "*.anthropic.com"],
    "allowed_ports": [443]
  }'`, 200, "api.openai.com"}
	g.run(t, grant)
	g.run(t, command{`curl http://localhost:8765/api/network/list \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "*.anthropic.com"})
	g.run(t, command{`curl -X POST http://localhost:8765/api/network/check \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"pack_id": "my_pack", "domain": "api.openai.com", "port": 443}'`, 200, "Access granted"})
	g.run(t, command{`curl -X POST http://localhost:8765/api/network/revoke \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"pack_id": "my_pack", "reason": "不要になった"}'`, 200, "revoked"})
	g.run(t, command{`curl -X POST http://localhost:8765/api/network/grant \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"pack_id": "my_pack", "allowed_domains": ["api.example.com"], "allowed_ports": [443]}'`, 200, "api.example.com"})

	g.candidates(t)
	g.capabilityGrants(t)
	g.pip(t)
	g.secretsContainersFiles(t)
}

// candidates runs the commands about handlers: one is approved, another one is rejected until it is blocked.
func (g *guide) candidates(t *testing.T) {
	g.run(t, command{`curl -X POST http://localhost:8765/api/capability/candidates/scan \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json"`, 200, "scanned_count"})
	listed := g.run(t, command{`curl "http://localhost:8765/api/capability/requests?status=pending" \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "fs_read_v1"})
	var list struct {
		Items []struct {
			CandidateKey string `json:"candidate_key"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(listed), &list); err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	for _, item := range list.Items {
		if parts := strings.Split(item.CandidateKey, ":"); parts[0] == guidePack {
			keys[parts[1]] = url.QueryEscape(item.CandidateKey)
		}
	}
	const key = `ENCODED_KEY="my_pack%3Afs_read_v1%3Afs_read_handler%3Aabc123..."

`
	const word = "my_pack%3Afs_read_v1%3Afs_read_handler%3Aabc123..."
	g.replace[word] = keys["fs_read_v1"]
	g.run(t, command{key + `curl -X POST "http://localhost:8765/api/capability/requests/${ENCODED_KEY}/approve" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"notes": "Reviewed and approved"}'`, 200, "installed"})
	g.replace[word] = keys["fs_read_v2"]
	for _, outcome := range []string{"rejected", "rejected", "blocked"} {
		g.run(t, command{key + `curl -X POST "http://localhost:8765/api/capability/requests/${ENCODED_KEY}/reject" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"reason": "不要なファイルシステムアクセス"}'`, 200, outcome})
	}
	g.run(t, command{key + `curl -X POST "http://localhost:8765/api/capability/blocked/${ENCODED_KEY}/unblock" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"reason": "再評価の結果許可"}'`, 200, "pending"})
}

// capabilityGrants runs the commands about capability grants.
func (g *guide) capabilityGrants(t *testing.T) {
	g.run(t, command{`curl -X POST http://localhost:8765/api/capability/grants/grant \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"principal_id": "my_pack", "permission_id": "fs.read"}'`, 200, "granted"})
	g.run(t, command{`curl "http://localhost:8765/api/capability/grants?principal_id=my_pack" \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "fs.read"})
	g.run(t, command{`curl -X POST http://localhost:8765/api/capability/grants/revoke \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"principal_id": "my_pack", "permission_id": "fs.read"}'`, 200, "revoked"})
}

// pip runs the commands about dependencies. The package index of this suite doesn't answer, so the install must fail with 503.
func (g *guide) pip(t *testing.T) {
	g.run(t, command{`curl -X POST http://localhost:8765/api/pip/candidates/scan \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json"`, 200, "scanned_count"})
	g.run(t, command{`curl "http://localhost:8765/api/pip/requests?status=pending" \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, guidePack})
	for _, item := range pipItems(t) {
		if item.PackID == guidePack {
			g.replace["my_pack:requirements.lock:abc123..."] = item.CandidateKey
		}
	}
	const key = `KEY=$(python3 -c "from urllib.parse import quote; print(quote('my_pack:requirements.lock:abc123...', safe=''))")

`
	g.run(t, command{key + `curl -X POST "http://localhost:8765/api/pip/requests/${KEY}/approve" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"allow_sdist": false}'`, 503, `"success":false`})
	for _, outcome := range []string{"rejected", "rejected", "blocked"} {
		g.run(t, command{key + `curl -X POST "http://localhost:8765/api/pip/requests/${KEY}/reject" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"reason": "不要なパッケージを含んでいる"}'`, 200, outcome})
	}
	g.run(t, command{key + `curl -X POST "http://localhost:8765/api/pip/blocked/${KEY}/unblock" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"reason": "再評価の結果許可"}'`, 200, "pending"})
}

// secretsContainersFiles runs the commands about secrets and containers, and those that read the operator's files.
func (g *guide) secretsContainersFiles(t *testing.T) {
	for _, c := range []command{
		{`curl -X POST http://localhost:8765/api/secrets/set \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"key": "OPENAI_API_KEY", "value": "sk-..."}'`, 200, "OPENAI_API_KEY"},
		{`curl http://localhost:8765/api/secrets \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "********"},
		{`curl -X POST http://localhost:8765/api/secrets/delete \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"key": "OPENAI_API_KEY"}'`, 200, "OPENAI_API_KEY"},

		{`curl http://localhost:8765/api/docker/status \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, `"available":true`},
		{`curl -X POST http://localhost:8765/api/containers/{pack_id}/start \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "running"},
		{`curl http://localhost:8765/api/containers \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, guidePack},
		{`curl -X POST http://localhost:8765/api/containers/{pack_id}/stop \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, `"success":true`},

		{`cat user_data/audit/security_$(date +%Y-%m-%d).jsonl | jq 'select(.success == false)'`, 0, ""},
		{`cat user_data/audit/permission_$(date +%Y-%m-%d).jsonl | jq .`, 0, `"permission_grant"`},
		{`cat user_data/audit/system_$(date +%Y-%m-%d).jsonl | jq 'select(.action | contains("lib"))'`, 0, ""},
		{`cat user_data/audit/permission_$(date +%Y-%m-%d).jsonl | jq 'select(.details.permission_type == "capability_grant")'`, 0, guidePack},
		{`cat user_data/audit/security_$(date +%Y-%m-%d).jsonl | jq 'select(.action == "principal_id_overridden")'`, 0, ""},
		{`cat user_data/audit/network_$(date +%Y-%m-%d).jsonl | jq .`, 0, `"access_check"`},
		{`cat user_data/pending/summary.json | jq .`, 0, `"version": "1.0"`},
		// The guide sets these by hand. They must equal the defaults.
		{`export RUMI_EGRESS_SOCKET_GID=1099
   export RUMI_CAPABILITY_SOCKET_GID=1099
   docker inspect --format '{{.HostConfig.GroupAdd}}' ` + suite.project + `-pack-my_pack`, 0, "[1099]"},
		{`export RUMI_SECURITY_MODE=strict
   docker compose --project-directory ` + suite.root + ` config`, 0, "RUMI_SECURITY_MODE: strict"},
		{`ls -la ` + filepath.Join(suite.top, "run/egress/packs/"), 0, "drwxr-x---"},

		{`curl -X DELETE http://localhost:8765/api/packs/{pack_id} \
  -H "Authorization: Bearer YOUR_TOKEN"`, 200, "files_remove"},
	} {
		g.run(t, c)
	}
}

// guide runs commands of the guide.
type guide struct {
	replace map[string]string // placeholder in the guide to its value in this test
}

// run runs a command and checks its outcome. It returns the output or, if the command calls the API, the answer's data.
func (g *guide) run(t *testing.T, c command) string {
	t.Helper()
	// strings.Replacer takes the first pair that fits, so the longest placeholder comes first.
	words := slices.SortedFunc(maps.Keys(g.replace), func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, word := range words {
		pairs = append(pairs, word, g.replace[word])
	}
	text := strings.NewReplacer(pairs...).Replace(c.text)
	// The command stays as it is printed; its curl also says how the answer was.
	script := `curl() { command curl --silent --show-error --write-out '\n%{http_code}' "$@"; }
cd ` + suite.home + `
` + text
	out, err := suite.command(context.WithoutCancel(t.Context()), commandWait, "sh", "-c", script)
	if err != nil {
		t.Fatalf("%s\nended with %v, want status 0", c.text, err)
	}
	code := 0
	if c.status != 0 {
		at := strings.LastIndex(out, "\n")
		if code, err = strconv.Atoi(out[at+1:]); err != nil {
			t.Fatalf("%s\nprinted %s, want a status as its last line", c.text, out)
		}
		out = out[:at]
	}
	if code != c.status || !strings.Contains(out, c.shows) {
		t.Errorf("%s\nanswered %d %s\nwant %d with %q", c.text, code, out, c.status, c.shows)
	}
	if c.status != 200 {
		return out
	}
	var envelope struct {
		Data jsontext.Value `json:"data"`
	}
	if err := json.Unmarshal([]byte(out), &envelope); err != nil {
		t.Fatalf("%s\nanswered %s: %v", c.text, out, err)
	}
	return string(envelope.Data)
}

// field returns a field of a JSON object as text.
func field(t *testing.T, data, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(data), &fields); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(fields[name])
}
