package journeys

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/e2e/internal/api"
	"github.com/rumi-ai/rumi/e2e/internal/auditlog"
)

const (
	toolsPack  = "tools"
	toolsBase  = "rumi-tools-base:e2e" // has the tools
	toolsImage = "rumi-pack-tools:e2e" // what packs run in, made from that
)

// outcome is the wanted result of an action of a tool at a URL.
type outcome struct {
	action, url string
	words       []string // texts that the tool's line must contain, all of them
	denied      bool     // whether the proxy denies it, and so writes an audit entry
}

// step is a command that the pack runs, with the wanted outcomes of its actions.
type step struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	want []outcome
}

// allowed is an outcome without a denial by the proxy; denied is one with.
func allowed(action, url string, words ...string) outcome { return outcome{action, url, words, false} }
func denied(action, url string, words ...string) outcome  { return outcome{action, url, words, true} }

// fetches are the outcomes of a GET and a POST at base, over HTTPS or HTTP.
func fetches(base, get, post string) []outcome {
	return []outcome{
		allowed(get, base+"/hello", "200 hello from "+base),
		allowed(post, base+"/sum", fmt.Sprintf("200 POST of 1048576 bytes, %x", sha256.Sum256([]byte(strings.Repeat("x", 1<<20))))),
	}
}

// streams are the outcomes of a large download and of server-sent events.
func streams(base string) []outcome {
	return []outcome{
		allowed("download", base+"/big?bytes=134217728", "200 134217728 bytes"),
		allowed("events", base+"/events", "200 first second"),
	}
}

// deniedTunnels are the outcomes of tunnels that must be refused. says is the client's message; WHY in it stands for the proxy's reason.
func deniedTunnels(get, says string) []outcome {
	deny := func(url, why string) outcome { return denied(get, url, strings.ReplaceAll(says, "WHY", why)) }
	return []outcome{
		deny("https://other.rumi.test:8443/hello", "Domain 'other.rumi.test' not in allowed list"),
		deny("https://"+upstreamHost+":9443/hello", "Port 9443 not in allowed list"),
		deny("https://127.0.0.2:8443/hello", "Domain '127.0.0.2' not in allowed list"),
		deny("https://169.254.169.254/latest/meta-data/", "Domain '169.254.169.254' not in allowed list"),
	}
}

// deniedRequests are the outcomes of plain HTTP requests that must be refused. says is the client's message, which it prints beside the
// proxy's answer.
func deniedRequests(get, says string) []outcome {
	deny := func(url, why string) outcome {
		return denied(get, url, says, `{"success":false,"error":"Network access denied: `+why+`","error_type":"grant_denied"}`)
	}
	return []outcome{
		deny("http://other.rumi.test:8081/hello", "Domain 'other.rumi.test' not in allowed list"),
		deny("http://"+upstreamHost+"/hello", "Port 80 not in allowed list"),
		deny("http://127.0.0.2:8081/hello", "Domain '127.0.0.2' not in allowed list"),
		deny("http://169.254.169.254/latest/meta-data/", "Domain '169.254.169.254' not in allowed list"),
	}
}

// deniedRedirect is the outcome of a granted request that is redirected to a host that isn't granted.
func deniedRedirect(get, base, says string) []outcome {
	return []outcome{denied(get, base+"/moved", strings.ReplaceAll(says, "WHY", "Domain 'other.rumi.test' not in allowed list"))}
}

// steps are the commands that the pack runs.
func steps() []step {
	python := func(library, tunnel, refused string) step {
		return step{library, []string{"python3", "/pack/tools/fetch.py", library}, slices.Concat(
			fetches(upstreamHTTPS, "get", "post"), fetches(upstreamHTTP, "get", "post"), streams(upstreamHTTPS), streams(upstreamHTTP),
			deniedTunnels("get", tunnel), deniedRequests("get", refused), deniedRedirect("get", upstreamHTTPS, tunnel), deniedRedirect("get", upstreamHTTP, tunnel))}
	}
	const (
		recent, old   = "/opt/node/node_modules/node/bin/node", "/usr/bin/node"
		tunnel, fatal = "CONNECT tunnel failed, response 403", "exit 128 fatal: unable to access"
		failed        = "TypeError fetch failed"
	)
	return []step{
		python("urllib", "URLError <urlopen error Tunnel connection failed: 403 Rumi: WHY>", "HTTPError HTTP Error 403: Forbidden"),
		python("requests", "403 Rumi: WHY", "403"),
		python("httpx", "ProxyError 403 Rumi: WHY", "403"),
		{"curl", []string{"sh", "/pack/tools/fetch.sh"}, slices.Concat(
			withoutStatus(fetches(upstreamHTTPS, "get", "post")), withoutStatus(fetches(upstreamHTTP, "get", "post")), withoutStatus(streams(upstreamHTTPS)), withoutStatus(streams(upstreamHTTP)),
			deniedTunnels("get", "exit 56 curl: (56) "+tunnel), deniedRequests("get", "exit 22 curl: (22) The requested URL returned error: 403"),
			[]outcome{
				// Without the proxy, no name is resolved and no address is reached.
				allowed("direct", upstreamHTTPS+"/hello", "exit 6 curl: (6) Could not resolve host"),
				allowed("direct", "https://127.0.0.2:8443/hello", "exit 7 curl: (7) Failed to connect"),
				allowed("direct", "http://192.0.2.1/", "exit 7 curl: (7) Failed to connect"),
			})},
		{"git", []string{"sh", "/pack/tools/fetch.sh"}, []outcome{
			allowed("clone", upstreamHTTP+"/git/code.git", "4194304 bytes of noise"),
			allowed("clone", upstreamHTTPS+"/git/code.git", "4194304 bytes of noise"),
			allowed("push", upstreamHTTPS+"/git/code.git", "refs/heads/more"),
			denied("clone", "https://other.rumi.test:8443/git/code.git", fatal, tunnel),
			denied("clone", "https://"+upstreamHost+":9443/git/code.git", fatal, tunnel),
			denied("clone", "https://127.0.0.2:8443/git/code.git", fatal, tunnel),
			denied("clone", "http://"+upstreamHost+"/git/code.git", fatal, "The requested URL returned error: 403"),
			denied("clone", "http://169.254.169.254/code.git", fatal, "The requested URL returned error: 403"),
			allowed("clone", "git://"+upstreamHost+"/code.git", "exit 128"), // the git protocol uses no proxy
		}},
		// fetch uses a tunnel for plain HTTP, too. The proxy decides about the requests in it as about others. node:http sends plain
		// requests to the proxy.
		{"node 24", []string{recent, "/pack/tools/fetch.mjs"}, slices.Concat(
			fetches(upstreamHTTPS, "get", "post"), fetches(upstreamHTTPS, "get-http", "post-http"), fetches(upstreamHTTP, "get-http", "post-http"),
			streams(upstreamHTTPS), deniedTunnels("get", failed), deniedTunnels("get-http", "Error"), deniedRequests("get-http", "403"),
			deniedRedirect("get", upstreamHTTPS, failed), []outcome{allowed("get", upstreamHTTP+"/hello", "200 hello from "+upstreamHTTP)})},
		// Node 18 ignores the proxy variables, so it reaches nothing. With undici its fetch uses them.
		{"node 18", []string{old, "/pack/tools/fetch.mjs"}, []outcome{
			allowed("get", upstreamHTTPS+"/hello", failed),
			allowed("get-http", upstreamHTTPS+"/hello", "Error"),
		}},
		{"node 18 with undici", []string{old, "--no-warnings", "--require", "/pack/tools/old.cjs", "/pack/tools/fetch.mjs"}, slices.Concat(
			fetches(upstreamHTTPS, "get", "post"), streams(upstreamHTTPS), deniedTunnels("get", failed),
			[]outcome{allowed("get", upstreamHTTP+"/hello", "200 hello from "+upstreamHTTP)})},
	}
}

// withoutStatus removes the HTTP status from outcomes, for tools that don't print it. It changes its argument.
func withoutStatus(outcomes []outcome) []outcome {
	for _, o := range outcomes {
		o.words[0] = strings.TrimPrefix(o.words[0], "200 ")
	}
	return outcomes
}

// Code that has never heard of Rumi reaches, in a container without a network, exactly what is granted. Two of its
// libraries come from the default index, through a lock that was approved.
func TestUnmodifiedTools(t *testing.T) {
	buildToolsImage(t)
	settings := suite.upstreamSettings(t)
	settings["RUMI_PACK_IMAGE"] = toolsImage
	settings["RUMI_PIP_INDEX_URLS"], settings["RUMI_PIP_ALLOW_CIDRS"] = "", ""
	suite.reconfigure(t, []string{"e2e/journeys/testdata/upstream.yml"}, settings)
	proxy, err := suite.container(t.Context(), "egress-proxy")
	if err != nil {
		t.Fatal(err)
	}
	server := suite.startUpstream(t, toolsImage, proxy)

	all := steps()
	for i := range all {
		for _, o := range all[i].want {
			all[i].Argv = append(all[i].Argv, o.action, o.url)
		}
	}
	copyToolsPack(t, all)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if a, err := suite.api.Delete(ctx, "/api/packs/"+toolsPack); err != nil || a.Status != 200 {
			t.Errorf("the removal of the pack got %v, %v; want 200", a, err)
		}
	})
	began := time.Now()
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+toolsPack+"/approve", nil)
	installLock(t, toolsPack, 10)
	post(t, "/api/network/grant", map[string]any{"pack_id": toolsPack, "allowed_domains": []string{upstreamHost}, "allowed_ports": []int{8443, 8081}})
	post(t, "/api/containers/"+toolsPack+"/start", nil)
	lines := map[string][]string{} // by step
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the tools printed %q", lines)
		}
	})
	eventually(t, "the pack's end", func() bool {
		clear(lines)
		ended := false
		for _, text := range containerLog(t, toolsPack) {
			var printed struct {
				Step string `json:"step"`
				Line string `json:"line"`
			}
			if err := json.Unmarshal([]byte(text), &printed); err != nil {
				t.Fatalf("the pack printed %q, want JSON: %v", text, err)
			}
			lines[printed.Step] = append(lines[printed.Step], printed.Line)
			ended = ended || printed.Step == "end"
		}
		return ended
	})
	t.Logf("the tools took %v", time.Since(began).Round(time.Millisecond))
	refused := 0
	for _, s := range all {
		if len(lines[s.Name]) != len(s.want) {
			t.Errorf("%s printed %q, want a line for each of %d actions", s.Name, lines[s.Name], len(s.want))
			continue
		}
		for i, o := range s.want {
			got, ok := strings.CutPrefix(lines[s.Name][i], o.action+" "+o.url+": ")
			for _, words := range o.words {
				ok = ok && strings.Contains(got, words)
			}
			if !ok {
				t.Errorf("%s: %q, want %q of %s %s", s.Name, lines[s.Name][i], o.words, o.action, o.url)
			}
			if o.denied {
				refused++
			}
		}
	}
	for line := range strings.Lines(suite.containerLogs(t, server)) {
		if strings.Contains(line, "asked") && !strings.Contains(line, " "+upstreamHost+":8443/") && !strings.Contains(line, " "+upstreamHost+":8081/") {
			t.Errorf("the upstream was asked for %s, want only requests for granted hosts and ports", line)
		}
	}
	if got := denials(t, toolsPack, began); got != refused {
		t.Errorf("%d denials in the security log, want %d", got, refused)
	}
}

// buildToolsImage builds the pack image on top of an image that has the tools.
func buildToolsImage(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"build", "--quiet", "--tag", toolsBase, "e2e/journeys/testdata/tools"},
		{"build", "--quiet", "--tag", toolsImage, "--target", "pack", "--build-arg", "BASE=" + toolsBase, "--file", "runtime/Dockerfile", "."},
	} {
		if _, err := suite.command(t.Context(), buildWait, "docker", args...); err != nil {
			t.Fatal(err)
		}
	}
}

// copyToolsPack copies the pack into ecosystem/, with its steps.
func copyToolsPack(t *testing.T, all []step) {
	t.Helper()
	plan, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	readPack(t, filepath.Join("testdata", "tools", "pack")).with(files{"steps.json": string(plan)}).copyToEcosystem(t, toolsPack)
}

// installLock approves a pack's lock of so many packages, which installs it from pip's default index. That index may not answer for a moment, so it tries three
// times.
func installLock(t *testing.T, pack string, packages int) {
	t.Helper()
	patient := *suite.api
	patient.HTTP.Timeout = commandWait // pip may take longer than the client's usual timeout
	var a api.Answer
	var err error
	for range 3 {
		post(t, "/api/pip/candidates/scan", nil)
		key := ""
		for _, item := range pipItems(t) {
			if item.PackID == pack {
				key = item.CandidateKey
			}
		}
		a, err = patient.Post(t.Context(), "/api/pip/requests/"+url.PathEscape(key)+"/approve", map[string]any{"allow_sdist": false})
		if err != nil || a.Status != 503 {
			break
		}
	}
	var installed struct {
		Status   string `json:"status"`
		Packages []struct {
			Name, Version string
		} `json:"packages"`
	}
	if err := must(t, a, err).Into(&installed); err != nil {
		t.Fatal(err)
	}
	if installed.Status != "installed" || len(installed.Packages) != packages {
		t.Errorf("installed %+v, want %d packages", installed, packages)
	}
}

// denials counts the entries network_denied of a pack in the audit log, from since on.
func denials(t *testing.T, pack string, since time.Time) (n int) {
	t.Helper()
	entries, err := auditlog.Read(filepath.Join(suite.home, "user_data/audit"), since)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Category == "security" && e.Action == "network_denied" && e.OwnerPack == pack {
			n++
		}
	}
	return n
}
