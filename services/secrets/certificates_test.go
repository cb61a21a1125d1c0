package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// request is the body of a request for a certificate.
func request(t *testing.T, template *x509.CertificateRequest) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return `{"request": "` + base64.StdEncoding.EncodeToString(der) + `"}`
}

func uri(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCertificatesAreSignedForTheCallersNameOnly(t *testing.T) {
	suite, _ := start(t)
	home := "urn:rumi:home:" + suite.Identity("gateway").Home
	for name, c := range map[string]struct {
		template x509.CertificateRequest
		refused  string // what the audit entry says was asked for; "" where a certificate is signed
	}{
		"no names at all":             {x509.CertificateRequest{}, ""},
		"its own name and home":       {x509.CertificateRequest{Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"gateway"}, URIs: []*url.URL{uri(t, home)}}, ""},
		"another service":             {x509.CertificateRequest{DNSNames: []string{"approval"}}, "another service"},
		"its own name and another":    {x509.CertificateRequest{DNSNames: []string{"gateway", "approval"}}, "another service"},
		"another name of the subject": {x509.CertificateRequest{Subject: pkix.Name{CommonName: "approval"}}, "another service"},
		"another home":                {x509.CertificateRequest{URIs: []*url.URL{uri(t, "urn:rumi:home:"+identity.NewHome())}}, "another home"},
		"two homes":                   {x509.CertificateRequest{URIs: []*url.URL{uri(t, home), uri(t, "urn:rumi:home:x")}}, "another home"},
		"an address":                  {x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, "addresses"},
		"to be an authority": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{
			Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff},
		}}}, "extensions"},
	} {
		before := len(audittest.Text(t, filepath.Join(suite.UserData(), "audit"), "security"))
		status, a := call(t, suite, "gateway", "POST", "/internal/certificates", request(t, &c.template))
		entry := audittest.Text(t, filepath.Join(suite.UserData(), "audit"), "security")[before:]
		if c.refused != "" {
			if status != 403 || a.Code != "certificate_refused" || !strings.Contains(entry, `"certificate_refused"`) || !strings.Contains(entry, c.refused) {
				t.Errorf("%s: %d %+v, audited %q; want 403 certificate_refused, audited with %q", name, status, a, entry, c.refused)
			}
			continue
		}
		var answer renewal.SignResponse
		if err := json.Unmarshal(a.Data, &answer); status != 200 || err != nil {
			t.Errorf("%s: %d %+v, want a certificate", name, status, a)
			continue
		}
		cert, err := x509.ParseCertificate(answer.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(cert.DNSNames, []string{"gateway"}) || len(cert.URIs) != 1 || cert.URIs[0].String() != home || cert.IsCA || cert.NotAfter.Sub(cert.NotBefore) != 90*24*time.Hour {
			t.Errorf("%s: a certificate for %v, %v, an authority: %v, from %v to %v; want one of the gateway for 90 days",
				name, cert.DNSNames, cert.URIs, cert.IsCA, cert.NotBefore, cert.NotAfter)
		}
		if !strings.Contains(entry, `"certificate_issued"`) || !strings.Contains(entry, identity.Serial(cert)) {
			t.Errorf("%s: audited %q, want the certificate that was issued", name, entry)
		}
	}
	for name, body := range map[string]string{"no request": `{}`, "no PKCS #10": `{"request": "eHg="}`, "too long": `{"request": "` + strings.Repeat("A", 8<<10) + `"}`} {
		if status, a := call(t, suite, "gateway", "POST", "/internal/certificates", body); status != 400 || a.Code != "invalid_certificate_request" {
			t.Errorf("%s: %d %+v, want 400 invalid_certificate_request", name, status, a)
		}
	}
}

// The number of certificates that one service gets is bounded: each is a line of the register.
func TestCertificatesOfAServiceAreBounded(t *testing.T) {
	suite, _ := start(t)
	for i := range 40 {
		status, a := call(t, suite, "gateway", "POST", "/internal/certificates", request(t, &x509.CertificateRequest{}))
		if status == 429 && a.Code == "too_many_certificates" && i >= 16 {
			if status, a := call(t, suite, "approval", "POST", "/internal/certificates", request(t, &x509.CertificateRequest{})); status != 200 {
				t.Errorf("another service afterwards: %d %+v, want it served", status, a)
			}
			return
		}
		if status != 200 {
			t.Fatalf("certificate %d: %d %+v", i, status, a)
		}
	}
	t.Error("40 certificates were signed for one service, want a bound")
}

func TestSecretsWorksWithoutAnAuthority(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	makeKey(t, suite)
	suite.Identity("secrets")
	suite.Identity("gateway")
	if err := os.Remove(filepath.Join(suite.AuthorityDir(), identity.KeyFile)); err != nil {
		t.Fatal(err)
	}
	server := servicetest.Start(suite, "secrets", build, nil)
	if status, a := call(t, suite, "gateway", "GET", "/api/secrets", ""); status != 200 {
		t.Errorf("list: %d %+v, want 200", status, a)
	}
	if status, a := call(t, suite, "gateway", "POST", "/internal/certificates", request(t, &x509.CertificateRequest{})); status != 503 || a.Code != "authority_unavailable" {
		t.Errorf("sign: %d %+v, want 503 authority_unavailable", status, a)
	}
	ready := server.Readiness(t.Context())
	if i := slices.IndexFunc(ready.Checks, func(c service.Check) bool { return c.Name == "certificate authority" }); i < 0 || ready.Checks[i].OK || ready.Checks[i].Fix == "" {
		t.Errorf("the readiness is %+v, want the authority named, with what to do", ready)
	}
}

// peerBuild is a service with what the load needs, and access to its runtime.
func peerBuild(into **service.Runtime) service.Build[struct{}] {
	return func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		*into = rt
		echo := rpc.Raw(func(w http.ResponseWriter, r *http.Request) error {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			return rpc.WriteData(w, len(data))
		})
		for _, pattern := range []string{"GET /echo", "POST /echo"} {
			rt.Mux().Route(pattern, echo, "gateway", "approval", "capability-broker", "pack-registry")
		}
		return nil
	}
}

// load makes calls of a service until ctx ends, each of a kind that takes its own way through the client.
type load struct {
	calls, failed atomic.Int64
	first         atomic.Pointer[error]
}

func (l *load) run(ctx context.Context, peer *client.Peer, pause time.Duration) {
	large := bytes.Repeat([]byte("x"), 100<<10)
	for i := 0; ctx.Err() == nil; i++ {
		var err error
		switch i % 4 {
		case 0, 1:
			_, err = client.Call[int](context.WithoutCancel(ctx), peer, "POST", "/echo", map[string]int{"n": i})
		case 2:
			_, err = client.Call[int](context.WithoutCancel(ctx), peer, "GET", "/echo", nil)
		case 3: // as an upload: it can't be sent twice
			var response *http.Response
			if response, err = peer.Stream(context.WithoutCancel(ctx), "POST", "/echo", io.MultiReader(bytes.NewReader(large))); err == nil {
				_, err = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}
		l.calls.Add(1)
		if err != nil {
			l.failed.Add(1)
			l.first.CompareAndSwap(nil, &err)
		}
		time.Sleep(pause)
	}
}

// TestCertificatesAreRenewedUnderLoad has services call each other while their certificates live for seconds: every one is renewed several
// times, and no call fails. With RUMI_TEST_RENEWAL=10m (any time) it runs so long, with certificates of two minutes.
func TestCertificatesAreRenewedUnderLoad(t *testing.T) {
	life, runs := identity.MinLife, 16*time.Second
	if text := os.Getenv("RUMI_TEST_RENEWAL"); text != "" {
		var err error
		if runs, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
		life = 2 * time.Minute
	}
	suite := servicetest.New(t, "secrets", "approval", "gateway", "capability-broker")
	suite.CertificateLife(life)
	makeKey(t, suite)
	vault := servicetest.Start(suite, "secrets", build, map[string]string{"RUMI_CERTIFICATE_LIFE": life.String()}).Runtime
	var approval, gateway, broker *service.Runtime
	servicetest.Start(suite, "approval", peerBuild(&approval), nil)
	servicetest.Start(suite, "gateway", peerBuild(&gateway), nil)
	servicetest.Start(suite, "capability-broker", peerBuild(&broker), nil)
	replica := another(t, suite, "approval") // with the same folder

	ctx, cancel := context.WithTimeout(t.Context(), runs)
	defer cancel()
	var all sync.WaitGroup
	var calls load
	for _, from := range []*service.Runtime{gateway, broker, replica} {
		all.Go(func() { calls.run(ctx, from.Peer("approval"), time.Millisecond) })
		all.Go(func() { calls.run(ctx, from.Peer("capability-broker"), 50*time.Millisecond) })
		all.Go(func() { calls.run(ctx, from.Peer("gateway"), life/9) }) // idle for long
	}
	var secrets, missed atomic.Int64
	all.Go(func() {
		keys := api.NewClient(broker.Peer("secrets"))
		for ctx.Err() == nil {
			if _, err := keys.Value(context.WithoutCancel(ctx), "NOT_SET"); err == nil || !strings.Contains(err.Error(), "not found") {
				missed.Add(1)
				t.Logf("a value: %v", err)
			}
			secrets.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	serials := map[string]map[string]bool{}
	late := 0.0
	for ctx.Err() == nil {
		for _, rt := range []*service.Runtime{vault, approval, gateway, broker, replica} {
			cert := rt.Identity.Certificate()
			if serials[rt.Name] == nil {
				serials[rt.Name] = map[string]bool{}
			}
			serials[rt.Name][identity.Serial(cert)] = true
			late = max(late, float64(time.Since(cert.NotBefore))/float64(identity.Life(cert)))
		}
		time.Sleep(20 * time.Millisecond)
	}
	all.Wait()
	if n := calls.failed.Load() + missed.Load(); n > 0 {
		first := calls.first.Load()
		t.Errorf("%d of %d calls failed, the first with %v; want none", n, calls.calls.Load()+secrets.Load(), first)
	}
	want := int(runs/life) - 1
	for name, seen := range serials {
		if len(seen) < max(want, 2) {
			t.Errorf("%s had %d certificates in %v, want at least %d", name, len(seen), runs, want)
		}
	}
	if !replica.Identity.Certificate().Equal(approval.Identity.Certificate()) {
		t.Error("two replicas of approval have different certificates")
	}
	if life > time.Minute && late > 2.0/3 { // with certificates of seconds the fractions that they name are rough
		t.Errorf("a certificate was in use after %.2f of its life, want it renewed before two thirds", late)
	}
	t.Logf("%d calls between services and %d of secrets in %v, certificates that live %v: %s; the oldest in use had %.2f of its life behind it",
		calls.calls.Load(), secrets.Load(), runs, life, count(serials), late)
}

func count(serials map[string]map[string]bool) string {
	var parts []string
	for name, seen := range serials {
		parts = append(parts, fmt.Sprintf("%s %d", name, len(seen)))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// another starts one more process of a service on its identity.
func another(t *testing.T, suite *servicetest.Suite, name string) *service.Runtime {
	t.Helper()
	var rt *service.Runtime
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	running, err := service.Start(context.Background(), name, peerBuild(&rt), service.Options{Environ: suite.Environ(name), API: listen(), Admin: listen(), Logs: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

// revoke does what `rumi certificates revoke` does.
func revoke(t *testing.T, suite *servicetest.Suite, name string) {
	t.Helper()
	a, err := identity.LoadAuthority(suite.AuthorityDir())
	if err != nil {
		t.Fatal(err)
	}
	a.Home = suite.Identity(name).Home
	next, err := a.IssueCertificate(name, filepath.Join(suite.UserData(), "settings/identity", name), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if revoked, err := identity.NewRegister(suite.AuthorityDir()).Revoke(name, identity.Serial(next), time.Now()); err != nil || len(revoked) == 0 {
		t.Fatalf("revoked %v, %v; want a certificate", revoked, err)
	}
}

// stolenConn is a connection to a service that stands on a copy of another's certificate.
func stolenConn(t *testing.T, thief *identity.Identity, name, address string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", address, thief.Client(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 4<<10)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestARevokedCertificateIsRefusedByAllWithinASecond(t *testing.T) {
	names := []string{"approval", "capability-broker", "egress-proxy", "gateway", "pack-registry", "pip-installer"}
	suite := servicetest.New(t, append(names, "secrets")...)
	makeKey(t, suite)
	vault := servicetest.Start(suite, "secrets", build, nil)
	running, addresses := []*service.Runtime{vault.Runtime}, map[string]string{"secrets": vault.Address}
	for _, name := range names {
		var rt *service.Runtime
		addresses[name] = servicetest.Start(suite, name, peerBuild(&rt), nil).Address
		running = append(running, rt)
	}
	for _, victim := range []string{"gateway", "secrets"} {
		thief := suite.Identity(victim) // a copy
		var conns []*tls.Conn
		for name, address := range addresses {
			conns = append(conns, stolenConn(t, thief, name, address))
		}
		revoke(t, suite, victim)
		began := time.Now()
		for _, conn := range conns {
			conn.SetReadDeadline(began.Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: a connection of the revoked certificate: %v, want it cut", victim, err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: the connections were cut after %v, want a second at most", victim, took)
		}
		for _, rt := range running {
			if !slices.ContainsFunc(rt.Identity.Denied(), func(d identity.Denied) bool { return d.Serial == identity.Serial(thief.Certificate()) }) {
				t.Errorf("%s: %s doesn't know of it after %v", victim, rt.Name, time.Since(began))
			}
			conn, err := tls.Dial("tcp", addresses[rt.Name], thief.Client(rt.Name))
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				conn.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "bad certificate") {
				t.Errorf("%s: %s answers a thief with %v, want it refused", victim, rt.Name, err)
			}
		}
		t.Logf("%s: all seven refused it, and had cut its connections, %v after it was revoked", victim, time.Since(began))
		for _, rt := range running {
			if rt.Name == "secrets" || rt.Name == "egress-proxy" || rt.Name == "pip-installer" {
				continue
			}
			if _, err := client.Call[int](t.Context(), rt.Peer("approval"), "POST", "/echo", nil); err != nil {
				t.Errorf("%s: %s calls approval afterwards: %v", victim, rt.Name, err)
			}
		}
	}
	security := audittest.Text(t, filepath.Join(suite.UserData(), "audit"), "security")
	if n := strings.Count(security, `"certificate_revoked"`); n != 2 {
		t.Errorf("%d entries of revocations, want 2:\n%s", n, security)
	}
	if n := strings.Count(security, `"service_connection_denied"`); n < 14 || !strings.Contains(security, `"revoked"`) {
		t.Errorf("%d entries of refused connections, want one for each service and thief:\n%s", n, security)
	}
}

// While secrets is down nothing stops: certificates are renewed once it is back, and what was revoked meanwhile is known within a second.
func TestNothingStopsWhileSecretsIsDown(t *testing.T) {
	suite := servicetest.New(t, "secrets", "approval", "gateway")
	makeKey(t, suite)
	env := map[string]string{"RUMI_CERTIFICATE_LIFE": "10s"}
	suite.CertificateLife(10 * time.Second)
	vault := servicetest.Start(suite, "secrets", build, env)
	var approval, gateway *service.Runtime
	servicetest.Start(suite, "approval", peerBuild(&approval), nil)
	servicetest.Start(suite, "gateway", peerBuild(&gateway), nil)
	old := gateway.Identity.Certificate()
	if err := vault.Stop(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 6*time.Second; time.Sleep(50 * time.Millisecond) { // beyond the time for renewal
		if _, err := client.Call[int](t.Context(), gateway.Peer("approval"), "POST", "/echo", nil); err != nil {
			t.Fatalf("a call %v after secrets went down: %v", time.Since(began), err)
		}
	}
	if !gateway.Identity.Certificate().Equal(old) {
		t.Error("a certificate was renewed by nobody")
	}
	stolen := identity.Serial(old)
	servicetest.Start(suite, "secrets", build, env)
	for began := time.Now(); identity.Serial(gateway.Identity.Certificate()) == stolen; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			t.Fatalf("not renewed %v after secrets is back: %v", time.Since(began), gateway.Identity.Check(time.Now()))
		}
	}
	if revoked, err := identity.NewRegister(suite.AuthorityDir()).Revoke("gateway", identity.Serial(gateway.Identity.Certificate()), time.Now()); err != nil || len(revoked) == 0 {
		t.Fatalf("revoked %v, %v; want the old certificate", revoked, err)
	}
	for began := time.Now(); !slices.ContainsFunc(approval.Identity.Denied(), func(d identity.Denied) bool { return d.Serial == stolen }); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Second {
			t.Fatal("a revocation after the return of secrets isn't known within a second")
		}
	}
	if _, err := client.Call[int](t.Context(), gateway.Peer("approval"), "POST", "/echo", nil); err != nil {
		t.Errorf("a call afterwards: %v", err)
	}
}
