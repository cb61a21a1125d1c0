package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/testenv"
)

// front relays a TCP port to a pack's socket, as PID 1 of its container does, and gives the port's address.
func (r *rig) front(id string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { l.Close() })
	r.dial(id)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", r.socket(id))
			if err != nil {
				c.Close()
				continue
			}
			go func() { io.Copy(s, c); s.(*net.UnixConn).CloseWrite() }()
			go func() { io.Copy(c, s); c.Close(); s.Close() }()
		}
	}()
	return l.Addr().String()
}

// bareRepository has one commit on main, ready to be read as plain files.
func bareRepository(t *testing.T) (dir string) {
	t.Helper()
	testenv.NeedsProgram(t, "git", "curl", "python3")
	dir = t.TempDir()
	var printed string // by the command before
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", "."},
		{"hash-object", "-w", "-t", "tree", "/dev/null"},
		{"-c", "user.name=t", "-c", "user.email=t@rumi.test", "commit-tree", "-m", "first", ""},
		{"update-ref", "refs/heads/main", ""},
		{"update-server-info"},
	} {
		if last := len(args) - 1; args[last] == "" {
			args[last] = printed
		}
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		printed = strings.TrimSpace(string(out))
	}
	return dir
}

// Tools that know nothing of Rumi reach what is granted and are told what isn't.
func TestToolsUseTheProxy(t *testing.T) {
	r := newRig(t, nil)
	files := http.FileServer(http.Dir(bareRepository(t)))
	hello := func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/code.git/") {
			http.StripPrefix("/code.git", files).ServeHTTP(w, q)
			return
		}
		fmt.Fprint(w, "hello over ", q.Proto)
	}
	plain, plainPort := upstreamServer(t, hello)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(hello))
	secure.StartTLS()
	t.Cleanup(secure.Close)
	_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
	r.pack("p", "approved")
	r.eventually("the grant", func() bool {
		status, _ := r.call("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":"p","allowed_domains":["127.0.0.1","localhost"],"allowed_ports":[%s,%s]}`, plainPort, securePort))
		return status == http.StatusOK
	})
	proxy := r.front("p")
	const python = `
import ssl, sys, urllib.request
context = ssl._create_unverified_context()
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20, context=context).read().decode())
except Exception as error:
    print(error, getattr(error, "read", bytes)().decode())
`
	tools := map[string][]string{"curl": {"curl", "-sSk", "--max-time", "20"}, "urllib": {"python3", "-c", python}}
	tunnel := "https://localhost:" + securePort
	run := func(argv ...string) string {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "HTTP_PROXY=http://"+proxy, "HTTPS_PROXY=http://"+proxy, "http_proxy=http://"+proxy, "https_proxy=http://"+proxy,
			"NO_PROXY=", "no_proxy=", "GIT_SSL_NO_VERIFY=1", "GIT_TERMINAL_PROMPT=0")
		out, _ := cmd.CombinedOutput() // what isn't granted ends some tools with an error; the text decides
		return string(out)
	}
	for url, says := range map[string]string{
		plain: "refs/heads/main", tunnel: "refs/heads/main", "http://other.example": "error: 403", "https://other.example": "403",
	} {
		if out := run("git", "ls-remote", url+"/code.git"); !strings.Contains(out, says) {
			t.Errorf("git %s: %q, want %q", url, out, says)
		}
	}
	for name, tool := range tools {
		for _, c := range []struct{ url, says string }{
			{plain, "hello over HTTP/1.1"},
			{tunnel, "hello over HTTP/1.1"},
			{"http://other.example/", "Domain 'other.example' not in allowed list"},
			{"https://other.example/", "403"},
			{"https://127.0.0.1:" + securePort, "unrecognized name"}, // no server name in TLS for an address
		} {
			out := run(append(tool[:len(tool):len(tool)], c.url)...)
			says := strings.ReplaceAll(strings.ToLower(out), "_", " ")
			if !strings.Contains(says, strings.ToLower(c.says)) {
				t.Errorf("%s %s: %q, want %q", name, c.url, out, c.says)
			}
		}
	}
	var denied, mismatched int
	for _, e := range r.entries("security") {
		switch details, _ := e["details"].(map[string]any); details["blocked_reason"] {
		case "grant_denied":
			denied++
		case "sni_mismatch":
			mismatched++
		}
	}
	if denied != 6 || mismatched != 2 {
		t.Errorf("%d and %d denials in the security log", denied, mismatched)
	}
}
