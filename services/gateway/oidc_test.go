package main

import (
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/services/gateway/internal/oidc/oidctest"
)

// startEgressProxy runs the real service as a process, with the issuer in its settings.
func startEgressProxy(t *testing.T, suite *servicetest.Suite, issuer *oidctest.Issuer) {
	t.Helper()
	dir := t.TempDir()
	binary, ca := filepath.Join(dir, "egress-proxy"), filepath.Join(dir, "ca.pem")
	build := exec.Command("go", "build", "-o", binary, "../egress-proxy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build egress-proxy: %v\n%s", err, out)
	}
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, address := exec.CommandContext(t.Context(), binary), suite.Release("egress-proxy")
	cmd.Env = append(suite.Environ("egress-proxy"), "RUMI_LISTEN="+address, "RUMI_ADMIN_LISTEN=127.0.0.1:0", "RUMI_EGRESS_SOCK_DIR="+filepath.Join(dir, "packs"),
		"RUMI_OIDC_ISSUER="+issuer.URL, "RUMI_EGRESS_ALLOW_CIDRS=127.0.0.1", "RUMI_EGRESS_CA_FILE="+ca, "RUMI_LOG_LEVEL=warn")
	if os.Geteuid() == 0 { // the process gives up root
		own(t, suite.Home)
		own(t, dir)
	}
	cmd.Stderr = t.Output()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("egress-proxy doesn't listen within a minute")
		}
	}
}

// own gives everything in one of the test's temporary folders to the user of the services.
func own(t *testing.T, dir string) {
	t.Helper()
	const uid = 1099
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
	if err = errors.Join(err, os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// TestSignIn goes the whole way: an issuer, the real egress-proxy that alone reaches it, the gateway, and a service behind it.
func TestSignIn(t *testing.T) {
	issuer := oidctest.New(t)
	suite := servicetest.New(t, "gateway", "approval", "egress-proxy")
	suite.SetToken(apiToken)
	servicetest.Start(suite, "approval", owners["approval"], map[string]string{"RUMI_LOG_LEVEL": "error"})
	startEgressProxy(t, suite, issuer)
	server := servicetest.Start(suite, "gateway", build, map[string]string{
		"RUMI_API_RATE_LIMIT": "0", "RUMI_LOG_LEVEL": "error", "RUMI_OIDC_ISSUER": issuer.URL, "RUMI_OIDC_CLIENT_ID": oidctest.ClientID,
		"RUMI_OIDC_ROLES": "rumi-admins=admin,ops=operator,readers=viewer",
	})
	w := &world{Suite: suite, t: t, address: server.Address, servers: map[string]*servicetest.Server{"gateway": server}}
	as := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // egress-proxy is starting
		got := w.do(t, "GET", "/api/packs", nil, as(issuer.Token("5f2", []string{"ops"}, nil)))
		if got.status == 200 {
			if s := got.seen(t); s.Actor != "oidc:5f2" || s.Header.Get("X-Rumi-Role") != "operator" || s.Header.Get("Authorization") != "" {
				t.Errorf("the service sees %+v, want oidc:5f2 as an operator, and no token", s)
			}
			break
		}
		if got.status != 503 || got.Code != "oidc_unavailable" || time.Now().After(deadline) {
			t.Fatalf("answered %d %s, want 200, or 503 until the keys are there", got.status, got.raw)
		}
	}
	// Beside it the other credentials are good.
	if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 || got.seen(t).Actor != "init" {
		t.Errorf("init's token: %d %s, want 200", got.status, got.raw)
	}
	viewer := as(issuer.Token("7a1", []string{"readers"}, nil))
	if got := w.do(t, "GET", "/api/packs", nil, viewer); got.status != 200 || got.seen(t).Actor != "oidc:7a1" {
		t.Errorf("a viewer reads: %d %s, want 200", got.status, got.raw)
	}
	wantFailure(t, w.do(t, "POST", "/api/packs/x/reject", strings.NewReader("{}"), viewer), 403,
		"Not allowed: POST /api/packs/{pack_id}/reject needs packs.reject and the role operator or more; 'oidc:7a1' has the role viewer")
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, as(issuer.Token("9c4", []string{"others"}, nil))), 403,
		"Not allowed: GET /api/packs needs packs.read and the role viewer or more; 'oidc:9c4' has none: no group of the person is in RUMI_OIDC_ROLES")
	expired := w.do(t, "GET", "/api/packs", nil, as(issuer.Token("5f2", []string{"ops"}, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})))
	wantFailure(t, expired, 401, "Unauthorized")
	if got := expired.header.Get("WWW-Authenticate"); !strings.Contains(got, "the token has expired") {
		t.Errorf("WWW-Authenticate is %q, want that the token has expired", got)
	}
	// A key that is new at the issuer: this gateway's first fetch may be a moment ago.
	second := oidctest.NewKey(t, "two", jose.RS256)
	issuer.Rotate(second)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		if got := w.do(t, "GET", "/api/packs", nil, as(issuer.Token("5f2", []string{"ops"}, nil))); got.status == 200 {
			break
		} else if got.status != 401 && got.status != 429 || time.Now().After(deadline) {
			t.Fatalf("a token of the new key: %d %s, want 200 within a minute", got.status, got.raw)
		}
	}
	issuer.SetDown(true)
	if got := w.do(t, "GET", "/api/packs", nil, as(issuer.Token("5f2", []string{"ops"}, nil))); got.status != 200 {
		t.Errorf("while the issuer is down: %d %s, want 200", got.status, got.raw)
	}
	entries := w.audit("security")
	for _, want := range []string{`"oidc_signed_in"`, `"actor":"oidc:9c4"`, `"access_denied"`, "the token has expired"} {
		if !strings.Contains(entries, want) {
			t.Errorf("the audit log lacks %s:\n%s", want, entries)
		}
	}
}

func TestSignInSettings(t *testing.T) {
	suite := servicetest.New(t, "gateway")
	suite.SetToken(apiToken)
	server := servicetest.Start(suite, "gateway", build, map[string]string{"RUMI_LOG_LEVEL": "error"})
	for want, bad := range map[string]config{
		"RUMI_OIDC_ISSUER isn't":    {OIDCClientID: "rumi"},
		"needs RUMI_OIDC_CLIENT_ID": {OIDCIssuer: "https://x", OIDCRoles: "a=admin"},
		"RUMI_OIDC_ROLES such as":   {OIDCIssuer: "https://x", OIDCClientID: "rumi"},
		"is no role":                {OIDCIssuer: "https://x", OIDCClientID: "rumi", OIDCRoles: "a=root"},
	} {
		if _, err := openSignIns(server.Runtime, bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", bad, err, want)
		}
	}
}
