package identity_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

// deny is the entry of an identity's certificate.
func deny(id *identity.Identity) []identity.Denied {
	cert := id.Certificate()
	return []identity.Denied{{Serial: identity.Serial(cert), Service: id.Name, NotAfter: cert.NotAfter, RevokedAt: time.Now()}}
}

// connected is an admitted connection, both ends.
func connected(t *testing.T, server, client *identity.Identity) (atServer, atClient *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); accepted.Close() })
	below, above := server.Watch(accepted), client.Watch(raw)
	atServer, atClient = tls.Server(below, server.Server()), tls.Client(above, client.Client(server.Name))
	done := make(chan error, 1)
	go func() { done <- errors.Join(atServer.Handshake(), below.Admit(atServer.ConnectionState())) }()
	if err := errors.Join(atClient.Handshake(), above.Admit(atClient.ConnectionState()), <-done); err != nil {
		t.Fatal(err)
	}
	return atServer, atClient
}

// cut says whether a connection ends within a second.
func cut(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Second))
	_, err := c.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestRevokedCertificates(t *testing.T) {
	a := authority(t)
	now := time.Now()
	approval, gateway, secrets := issue(t, a, "approval", now), issue(t, a, "gateway", now), issue(t, a, "secrets", now)
	_, toApproval := connected(t, approval, gateway)
	_, fromSecrets := connected(t, approval, secrets)
	back, _ := connected(t, gateway, approval)

	if added := approval.Deny(deny(gateway)); added != 1 {
		t.Errorf("%d new, want 1", added)
	}
	if !cut(toApproval) {
		t.Error("the connection of a revoked caller lives on, want it cut")
	}
	if cut(fromSecrets) {
		t.Error("the connection of another caller was cut")
	}
	if _, serverErr, _ := handshake(t, approval.Server(), gateway.Client("approval")); serverErr == nil || !strings.Contains(serverErr.Error(), "revoked") {
		t.Errorf("a revoked caller: %v, want it refused", serverErr)
	}
	if _, _, clientErr := handshake(t, gateway.Server(), approval.Client("gateway")); clientErr == nil || !strings.Contains(clientErr.Error(), "revoked") {
		t.Errorf("a revoked server: %v, want it refused", clientErr)
	}
	gateway.Deny(deny(approval))
	if !cut(back) {
		t.Error("the connection of a revoked caller lives on, want it cut")
	}
	if added := approval.Deny(nil); added != 0 || len(approval.Denied()) != 1 {
		t.Errorf("an older list takes certificates from the newer: %v", approval.Denied())
	}
}

// A certificate that is revoked between its check and the end of the handshake is not admitted.
func TestRevokedDuringTheHandshake(t *testing.T) {
	a := authority(t)
	now := time.Now()
	approval, gateway := issue(t, a, "approval", now), issue(t, a, "gateway", now)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	below := approval.Watch(ours)
	server, client := tls.Server(below, approval.Server()), tls.Client(theirs, gateway.Client("approval"))
	go func() {
		_ = client.Handshake()
		_, _ = io.Copy(io.Discard, client)
	}()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	approval.Deny(deny(gateway))
	if err := below.Admit(server.ConnectionState()); err == nil {
		t.Fatal("admitted, want an error")
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection is open still: %v, want it closed", err)
	}
}

func TestDeniedIsKept(t *testing.T) {
	a := authority(t)
	now := time.Now()
	dir, approval := folder(t, a, "approval", now)
	gateway := issue(t, a, "gateway", now)
	list := deny(gateway)
	over := deny(issue(t, a, "gateway", now))
	over[0].NotAfter = now.Add(-2 * time.Hour)
	if added, err := approval.KeepDenied(append(list, over...)); added != 1 || err != nil {
		t.Errorf("%d new, %v; want 1: the other ended two hours ago", added, err)
	}
	again, err := identity.Load(dir)
	if err != nil || len(again.Denied()) != 1 || again.Denied()[0].Serial != list[0].Serial {
		t.Errorf("a restart knows %v, %v; want the revoked certificate", again.Denied(), err)
	}
	more := deny(issue(t, a, "secrets", now))
	if err := identity.WriteDenied(dir, more); err != nil {
		t.Fatal(err)
	}
	if err := again.Reload(); err != nil || len(again.Denied()) != 2 {
		t.Errorf("after another process wrote the list: %v, %v; want both", again.Denied(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, identity.DeniedFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.Reload(); err == nil || !strings.Contains(err.Error(), identity.DeniedFile) || len(again.Denied()) != 2 {
		t.Errorf("a broken file: %v, %v; want an error, and the list in force", err, again.Denied())
	}
}

func TestConnectionsEndWithTheirCertificates(t *testing.T) {
	a := authority(t)
	now := time.Now()
	for name, c := range map[string]struct{ server, client time.Duration }{
		"the caller's ends first":  {identity.MaxLife, time.Hour},
		"the service's ends first": {time.Hour, identity.MaxLife},
	} {
		a.Life = c.server
		server := issue(t, a, "approval", now)
		a.Life = c.client
		client := issue(t, a, "gateway", now)
		atServer, atClient := connected(t, server, client)
		for _, end := range []struct {
			conn *tls.Conn
			id   *identity.Identity
		}{{atServer, server}, {atClient, client}} {
			watched := end.conn.NetConn().(*identity.Conn)
			if watched.Retired() {
				t.Errorf("%s: retired at once", name)
			}
			if n := end.id.CutEnded(now.Add(53 * time.Minute)); n != 0 {
				t.Errorf("%s: %d connections cut before the end of the hour, want none", name, n)
			}
			if n := end.id.CutEnded(now.Add(time.Hour)); n != 1 {
				t.Errorf("%s: %d connections cut after the hour, want 1", name, n)
			}
		}
	}
	a.Life = identity.MinLife
	server, client := issue(t, a, "approval", now), issue(t, a, "gateway", now)
	atServer, atClient := connected(t, server, client)
	time.Sleep(time.Until(server.Certificate().NotBefore.Add(identity.MinLife*5/6 + 50*time.Millisecond)))
	_, young := connected(t, server, client)
	for _, conn := range []*tls.Conn{atServer, atClient} {
		if !conn.NetConn().(*identity.Conn).Retired() {
			t.Error("not retired after 5/6 of the certificates' life, want no further request on it")
		}
	}
	if young.NetConn().(*identity.Conn).Retired() {
		t.Error("a connection made after 5/6 of their life is retired at once, want requests on it still")
	}
}

func TestRegister(t *testing.T) {
	dir := t.TempDir()
	a := authority(t)
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	_, first := folder(t, a, "approval", now)
	gatewayDir, gateway := folder(t, a, "gateway", now)
	_, second := folder(t, a, "approval", now)
	_, _ = folder(t, a, "approval", now.Add(-identity.MaxLife-time.Hour)) // ended: it leaves the register
	register := identity.NewRegister(dir)
	revoked, err := register.Revoke("approval", identity.Serial(second.Certificate()), now)
	if err != nil || len(revoked) != 1 || revoked[0].Serial != identity.Serial(first.Certificate()) {
		t.Errorf("revoked %v, %v; want the first certificate of approval alone", revoked, err)
	}
	all, err := register.Read()
	if err != nil || len(all) != 3 {
		t.Errorf("the register has %v, %v; want three certificates", all, err)
	}
	if denied := identity.DeniedOf(all); len(denied) != 1 || denied[0].Serial != revoked[0].Serial || !denied[0].RevokedAt.Equal(now) {
		t.Errorf("denied is %v, want the first", denied)
	}
	if !a.Current("gateway", gatewayDir, now) {
		t.Error("a good certificate isn't current")
	}
	if _, err := register.Revoke("gateway", "", now); err != nil {
		t.Fatal(err)
	}
	if a.Current("gateway", gatewayDir, now) || a.Good("gateway", gatewayDir, now) {
		t.Error("a revoked certificate is current, so that init wouldn't replace it")
	}
	failure := errors.New("no")
	if err := register.Change(func([]identity.Issued) ([]identity.Issued, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v, want the error of the change", err)
	}
	if again, err := register.Read(); err != nil || len(again) != 3 || !slices.ContainsFunc(again, func(i identity.Issued) bool {
		return i.Serial == identity.Serial(gateway.Certificate()) && i.Revoked()
	}) {
		t.Errorf("after a change that failed: %v, %v; want the list as it was", again, err)
	}
	if err := os.WriteFile(register.Path(), []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Issue("approval", t.TempDir(), now); err == nil || !strings.Contains(err.Error(), identity.RegisterFile) {
		t.Errorf("with a register that can't be read: %v, want an error that names it", err)
	}
}
