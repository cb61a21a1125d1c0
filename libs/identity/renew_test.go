package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

// folder is an identity of a service, with its folder and its authority.
func folder(t *testing.T, a *identity.Authority, service string, now time.Time) (string, *identity.Identity) {
	t.Helper()
	dir := t.TempDir()
	if err := a.Issue(service, dir, now); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, id
}

// signer is an authority that signs what it is asked for, as the service secrets does.
func signer(a *identity.Authority, service string) identity.Signer {
	return func(_ context.Context, request []byte) ([]byte, error) {
		parsed, err := x509.ParseCertificateRequest(request)
		if err != nil {
			return nil, err
		}
		cert, err := a.Sign(service, parsed.PublicKey, time.Now())
		if err != nil {
			return nil, err
		}
		return cert.Raw, nil
	}
}

// half is a moment at which a certificate that is issued then is due now.
func half() time.Time { return time.Now().Add(-identity.MaxLife * 7 / 12) }

func TestCertificatesLiveNinetyDaysAndAreRenewedBeforeTwoThirds(t *testing.T) {
	a := authority(t)
	for _, life := range []time.Duration{0, identity.MinLife, 2 * time.Minute, time.Hour, identity.MaxLife} {
		a.Life = life
		want := life
		if life == 0 {
			want = 90 * 24 * time.Hour
		}
		for range 20 {
			_, id := folder(t, a, "approval", time.Now())
			cert := id.Certificate()
			if got := cert.NotAfter.Sub(cert.NotBefore); got != want {
				t.Fatalf("a life of %v gives one of %v, want %v", life, got, want)
			}
			part := float64(id.RenewAt().Sub(cert.NotBefore)) / float64(want)
			if part < 0.5 || part >= 2.0/3 {
				t.Errorf("renewed after %.3f of the life, want from 1/2 on and before 2/3", part)
			}
		}
	}
	for _, life := range []time.Duration{identity.MinLife - 1, identity.MaxLife + 1, -1} {
		a.Life = life
		if err := a.Issue("approval", t.TempDir(), time.Now()); err == nil {
			t.Errorf("issued a certificate that lives %v, want an error", life)
		}
	}
}

func TestRenew(t *testing.T) {
	a := authority(t)
	dir, id := folder(t, a, "approval", half())
	replica, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := id.Certificate()
	renewed, err := id.Renew(t.Context(), signer(a, "approval"))
	if err != nil || !renewed || id.Certificate().Equal(old) {
		t.Fatalf("renewed %v, %v, another certificate: %v; want all of it", renewed, err, !id.Certificate().Equal(old))
	}
	again, err := identity.Load(dir)
	if err != nil || !again.Certificate().Equal(id.Certificate()) {
		t.Errorf("a restart has %v, %v, want the renewed certificate", again, err)
	}
	never := func(context.Context, []byte) ([]byte, error) { return nil, errors.New("asked, though not due") }
	if renewed, err := id.Renew(t.Context(), never); renewed || err != nil {
		t.Errorf("renewed again: %v, %v; want no call of the authority", renewed, err)
	}
	if renewed, err := replica.Renew(t.Context(), never); renewed || err != nil || !replica.Certificate().Equal(id.Certificate()) {
		t.Errorf("a replica: %v, %v; want it to take over what the first has written", renewed, err)
	}
	gateway := issue(t, a, "gateway", time.Now())
	if caller, serverErr, clientErr := handshake(t, gateway.Server(), id.Client("gateway")); caller != "approval" || serverErr != nil || clientErr != nil {
		t.Errorf("with the renewed certificate: %q, %v, %v; want it admitted", caller, serverErr, clientErr)
	}
}

// Two replicas that are due at the same time ask once.
func TestOneReplicaRenews(t *testing.T) {
	a := authority(t)
	dir, id := folder(t, a, "approval", half())
	replica, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = id.Renew(t.Context(), func(ctx context.Context, request []byte) ([]byte, error) {
		renewed, err := replica.Renew(ctx, func(context.Context, []byte) ([]byte, error) {
			return nil, errors.New("a second call of the authority")
		})
		if renewed || err != nil {
			t.Errorf("a replica while the other renews: %v, %v; want nothing", renewed, err)
		}
		return signer(a, "approval")(ctx, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := replica.Reload(); err != nil || !replica.Certificate().Equal(id.Certificate()) {
		t.Errorf("the replica has another certificate than the first: %v", err)
	}
}

func TestRenewTakesNothingElseOver(t *testing.T) {
	a := authority(t)
	elsewhere := *a
	elsewhere.Home = identity.NewHome()
	lasting := func(context.Context, []byte) ([]byte, error) { // a certificate of the right name for another key
		_, other := folder(t, a, "approval", time.Now())
		return other.Certificate().Raw, nil
	}
	for name, sign := range map[string]identity.Signer{
		"another service's":   signer(a, "gateway"),
		"another authority's": signer(authority(t), "approval"),
		"another home's":      signer(&elsewhere, "approval"),
		"another key's":       lasting,
		"none":                func(context.Context, []byte) ([]byte, error) { return []byte("x"), nil },
		"an error":            func(context.Context, []byte) ([]byte, error) { return nil, errors.New("down") },
	} {
		dir, id := folder(t, a, "approval", half())
		before, err := os.ReadFile(filepath.Join(dir, identity.IdentityFile))
		if err != nil {
			t.Fatal(err)
		}
		old := id.Certificate()
		if renewed, err := id.Renew(t.Context(), sign); renewed || err == nil || !id.Certificate().Equal(old) {
			t.Errorf("%s: renewed %v, %v; want an error and the old certificate", name, renewed, err)
		}
		if after, err := os.ReadFile(filepath.Join(dir, identity.IdentityFile)); err != nil || string(after) != string(before) {
			t.Errorf("%s: the file has changed (%v), want it kept", name, err)
		}
	}
}

func TestReload(t *testing.T) {
	a := authority(t)
	now := time.Now()
	for name, c := range map[string]struct {
		write func(dir string) error
		want  string // in the error; "" for none
		taken bool
	}{
		"a new certificate":               {func(dir string) error { return a.Issue("approval", dir, now) }, "", true},
		"one of a shorter life":           {func(dir string) error { b := *a; b.Life = time.Hour; return b.Issue("approval", dir, now) }, "", true},
		"one of another service":          {func(dir string) error { return a.Issue("gateway", dir, now) }, `the identity of "gateway"`, false},
		"one of another home":             {func(dir string) error { b := *a; b.Home = identity.NewHome(); return b.Issue("approval", dir, now) }, "it is the identity of", false},
		"one that has ended":              {func(dir string) error { return a.Issue("approval", dir, now.Add(-identity.MaxLife)) }, "has ended", false},
		"one of another authority":        {func(dir string) error { b := authority(t); b.Home = a.Home; return b.Issue("approval", dir, now) }, "", true},
		"the certificate of another file": {func(dir string) error { return os.WriteFile(filepath.Join(dir, identity.IdentityFile), nil, 0o600) }, "identity.pem", false},
		"no file":                         {func(dir string) error { return os.Remove(filepath.Join(dir, identity.IdentityFile)) }, "run init", false},
		"another authority, half written": {func(dir string) error {
			b, other := authority(t), t.TempDir()
			b.Home = a.Home
			if err := b.Issue("approval", other, now); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(other, identity.CAFile), filepath.Join(dir, identity.CAFile)); err != nil {
				return err
			}
			return os.Chtimes(filepath.Join(dir, identity.IdentityFile), now, now)
		}, "did not sign it", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, id := folder(t, a, "approval", now.Add(-time.Hour))
			if err := id.Reload(); err != nil {
				t.Fatal(err)
			}
			old := id.Certificate()
			if err := c.write(dir); err != nil {
				t.Fatal(err)
			}
			err := id.Reload()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if taken := !id.Certificate().Equal(old); taken != c.taken {
				t.Errorf("taken over: %v, want %v", taken, c.taken)
			}
			if err := id.Reload(); err != nil {
				t.Errorf("the same files again: %v, want nothing said twice", err)
			}
			if unfit := id.Check(now); (unfit != nil) != (c.want != "") {
				t.Errorf("the readiness is %v, want an error: %v", unfit, c.want != "")
			}
		})
	}
}

func TestCheckSaysWhenACertificateIsNearItsEnd(t *testing.T) {
	a := authority(t)
	issued := time.Now()
	_, id := folder(t, a, "approval", issued)
	for _, c := range []struct {
		part float64
		want string
	}{
		{0.01, ""}, {0.66, ""}, {0.74, ""}, {0.76, "was not renewed"}, {0.99, "was not renewed"}, {1.01, "has ended"}, {-0.1, "the clock"},
	} {
		err := id.Check(id.Certificate().NotBefore.Add(time.Duration(c.part * float64(identity.MaxLife))))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("after %.2f of its life: %v, want %q", c.part, err, c.want)
		}
	}
}

func TestLifeSetting(t *testing.T) {
	for text, want := range map[string]time.Duration{"": identity.MaxLife, "2160h": identity.MaxLife, "2m": 2 * time.Minute, "5s": 5 * time.Second} {
		var got identity.LifeSetting
		if err := got.UnmarshalText([]byte(text)); err != nil || time.Duration(got) != want {
			t.Errorf("%q is %v, %v; want %v", text, time.Duration(got), err, want)
		}
	}
	for _, text := range []string{"2161h", "4s", "0", "-1h", "90d", "x", "2160"} {
		if err := new(identity.LifeSetting).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "5s to 2160h") {
			t.Errorf("%q: got %v, want what is wanted", text, err)
		}
	}
}
