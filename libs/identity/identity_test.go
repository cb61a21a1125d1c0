package identity_test

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

func issue(t *testing.T, a *identity.Authority, service string, now time.Time) *identity.Identity {
	t.Helper()
	dir := t.TempDir()
	if err := a.Issue(service, dir, now); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func authority(t *testing.T) *identity.Authority {
	t.Helper()
	a, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake connects client to server over loopback and says whom the server saw.
func handshake(t *testing.T, server, client *tls.Config) (caller string, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if serverErr = s.Handshake(); serverErr == nil {
			state := s.ConnectionState()
			caller = identity.Caller(&state)
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	clientErr = err
	if err == nil {
		defer conn.Close()
	}
	<-done
	return caller, serverErr, clientErr
}

func TestServicesKnowEachOther(t *testing.T) {
	a := authority(t)
	now := time.Now()
	approval, gateway := issue(t, a, "approval", now), issue(t, a, "gateway", now)
	foreign := issue(t, authority(t), "gateway", now)

	t.Run("a certificate of the authority is admitted by its name", func(t *testing.T) {
		caller, serverErr, clientErr := handshake(t, approval.Server(), gateway.Client("approval"))
		if serverErr != nil || clientErr != nil || caller != "gateway" {
			t.Fatalf("the caller is %q, server %v, client %v; want gateway, admitted", caller, serverErr, clientErr)
		}
	})
	t.Run("a caller without a certificate is refused", func(t *testing.T) {
		anonymous := gateway.Client("approval")
		anonymous.GetClientCertificate = nil
		if _, serverErr, _ := handshake(t, approval.Server(), anonymous); serverErr == nil {
			t.Fatal("a caller without a certificate is admitted, want it refused")
		}
	})
	t.Run("a certificate of another authority is refused", func(t *testing.T) {
		client := gateway.Client("approval")
		client.GetClientCertificate = foreign.Client("approval").GetClientCertificate
		if _, serverErr, _ := handshake(t, approval.Server(), client); serverErr == nil {
			t.Fatal("a certificate of another authority is admitted, want it refused")
		}
	})
	t.Run("a certificate of another home is refused, though its authority is the same", func(t *testing.T) {
		elsewhere := *a
		elsewhere.Home = identity.NewHome()
		stranger := issue(t, &elsewhere, "gateway", now)
		if _, serverErr, _ := handshake(t, approval.Server(), stranger.Client("approval")); serverErr == nil {
			t.Error("admitted a caller of another home")
		}
		other := issue(t, &elsewhere, "approval", now)
		if _, _, clientErr := handshake(t, other.Server(), gateway.Client("approval")); clientErr == nil {
			t.Error("trusted a server of another home")
		}
	})
	t.Run("a server of another name is refused", func(t *testing.T) {
		if _, _, clientErr := handshake(t, approval.Server(), gateway.Client("secrets")); clientErr == nil {
			t.Fatal("a server of another name is trusted, want it refused")
		}
	})
}

func TestAuthorityIsKeptAndRenews(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.LoadAuthority(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty folder: got %v, want ErrNotExist", err)
	}
	a := authority(t)
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := identity.LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Home = a.Home
	now := time.Now()
	service := t.TempDir()
	if err := a.Issue("secrets", service, now); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		service string
		at      time.Time
		with    *identity.Authority
		want    bool
	}{
		{"fresh", "secrets", now, again, true},
		{"shortly before its half", "secrets", now.Add(identity.MaxLife/2 - 2*time.Hour), again, true},
		{"after its half", "secrets", now.Add(identity.MaxLife / 2), again, false},
		{"another service's", "gateway", now, again, false},
		{"another authority's", "secrets", now, authority(t), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.with.Current(c.service, service, c.at); got != c.want {
				t.Fatalf("Current = %v, want %v", got, c.want)
			}
		})
	}
	for _, path := range []string{dir + "/key.pem", service + "/identity.pem"} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the key's mode is %v, %v; want 0600", info.Mode(), err)
		}
	}
}

func TestHomeIsNeverMadeUp(t *testing.T) {
	a := authority(t)
	dir := t.TempDir()
	if err := a.Issue("secrets", dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(dir)
	if err != nil || id.Home != a.Home || !identity.ValidHome(id.Home) {
		t.Fatalf("home %q, %v, want %q", id.Home, err, a.Home)
	}
	path := filepath.Join(dir, identity.HomeFile)
	for name, c := range map[string]struct{ content, want string }{
		"another home":   {identity.NewHome() + "\n", "was issued in home"},
		"empty":          {"", "holds no home id"},
		"too long":       {a.Home + "0\n", "holds no home id"},
		"two lines":      {a.Home + "\n\n", "holds no home id"},
		"capitals":       {strings.Repeat("A", 32), "holds no home id"},
		"spaces":         {strings.Repeat(" ", 32), "holds no home id"},
		"no file at all": {"-", "docker compose up --detach"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.content == "-" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if id, err := identity.Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", name, id, err, c.want)
		}
		if a.Current("secrets", dir, time.Now()) {
			t.Errorf("%s: the identity passes for current, so that init wouldn't mend it", name)
		}
	}
}

func TestIssueWantsAHome(t *testing.T) {
	a := authority(t)
	a.Home = ""
	if err := a.Issue("secrets", t.TempDir(), time.Now()); err == nil {
		t.Error("issued a certificate of no home")
	}
}

// A link in place of the file is replaced, not written through.
func TestIssueFollowsNoLink(t *testing.T) {
	a, dir, target := authority(t), t.TempDir(), filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, identity.IdentityFile)); err != nil {
		t.Fatal(err)
	}
	if err := a.Issue("secrets", dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "kept" {
		t.Errorf("the link's target holds %.20q, %v, want it untouched", got, err)
	}
}
