package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/rumi-ai/rumi/libs/flock"
)

// How long certificates live, from the beginning to the end that they name.
const (
	MaxLife = 90 * 24 * time.Hour // of any certificate of a service; longer ones are refused
	MinLife = 5 * time.Second     // that RUMI_CERTIFICATE_LIFE may set; anything below an hour is for tests
)

// LifeSetting is the value of RUMI_CERTIFICATE_LIFE: how long certificates live that are signed from now on.
type LifeSetting time.Duration

// UnmarshalText implements encoding.TextUnmarshaler. An empty text is MaxLife, the default.
func (l *LifeSetting) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*l = LifeSetting(MaxLife)
		return nil
	}
	life, err := time.ParseDuration(string(text))
	if err != nil || life < MinLife || life > MaxLife {
		return fmt.Errorf("want a time from %v to %.0fh", MinLife, MaxLife.Hours())
	}
	*l = LifeSetting(life)
	return nil
}

// A certificate's life in parts. The renewal begins at a moment of each process's own between renewFrom and renewBy, so that services that
// were started together don't all ask at once, and is late from lateFrom on.
const (
	renewFrom  = 1.0 / 2
	renewBy    = 7.0 / 12
	lateFrom   = 3.0 / 4
	retireFrom = 5.0 / 6 // from here on a connection takes no further request: see Conn.Retired
)

// at is the moment at which a part of a certificate's life is over.
func at(cert *x509.Certificate, part float64) time.Time {
	return cert.NotBefore.Add(time.Duration(part * float64(Life(cert))))
}

// Life is how long a certificate lives, from its beginning to its end.
func Life(cert *x509.Certificate) time.Duration { return cert.NotAfter.Sub(cert.NotBefore) }

// RenewAt is when the certificate is to be renewed: between a half and 7/12 of its life.
func (id *Identity) RenewAt() time.Time {
	return at(id.Certificate(), renewFrom+id.jitter*(renewBy-renewFrom))
}

// due says whether the certificate has to be renewed. One that is revoked has to be, but can't be: `rumi certificates revoke` issues the next.
func (id *Identity) due(now time.Time) bool { return !now.Before(id.RenewAt()) }

// Check is the readiness of the identity: an error where the certificate is revoked, where it is near its end, because its renewal has
// failed since the half of its life, and where the folder has an identity that can't be used.
func (id *Identity) Check(now time.Time) error {
	cert := id.Certificate()
	id.mu.Lock()
	refused := id.refused
	id.mu.Unlock()
	switch {
	case id.isDenied(cert):
		return fmt.Errorf("the certificate %s is revoked", Serial(cert))
	case ended(cert, now):
		return fmt.Errorf("the certificate has ended at %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate begins at %s; the clock of this machine may be wrong", cert.NotBefore.UTC().Format(time.RFC3339))
	case now.After(at(cert, lateFrom)):
		return fmt.Errorf("the certificate ends at %s and was not renewed", cert.NotAfter.UTC().Format(time.RFC3339))
	case refused != "":
		return errors.New(refused)
	}
	return nil
}

// Signer signs a certificate for a request (PKCS #10, DER) and returns it (DER).
type Signer func(ctx context.Context, request []byte) ([]byte, error)

// Renew gets a new certificate for a new key, writes it to the folder and takes it over, if the present one is due; renewed says whether it
// did. It does nothing while another replica of the service renews: Reload takes over what that one writes. Where the folder can't be
// written to, the new certificate is taken over nevertheless, and the error says that a restart would fall back to the old one.
func (id *Identity) Renew(ctx context.Context, sign Signer) (renewed bool, err error) {
	unlock, err := tryLock(id.dir)
	if errors.Is(err, flock.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	defer unlock()
	if err := id.Reload(); err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	if !id.due(time.Now()) {
		return false, nil
	}
	key, request, err := id.request()
	if err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	der, err := sign(ctx, request)
	if err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	next, keyPEM, err := id.accept(key, der)
	if err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	err = writeFolder(id.dir, id.Home, next.ca, keyPEM, encodeCertificate(der))
	id.current.Store(next)
	if err != nil {
		return true, fmt.Errorf("keep the renewed certificate, which a restart would lose: %w", err)
	}
	return true, nil
}

// request makes a key (ECDSA P-256), and the request for a certificate of this service for it.
func (id *Identity) request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id.Name}, DNSNames: []string{id.Name}, URIs: []*url.URL{homeURI(id.Home)},
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	return key, request, err
}

// accept checks that a signed certificate is what was asked for: a service that took over another would shut itself out.
func (id *Identity) accept(key *ecdsa.PrivateKey, der []byte) (*material, []byte, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	now := id.current.Load()
	name, err := nameOf(leaf)
	if err == nil && name != id.Name {
		err = fmt.Errorf("the certificate is for %q, want %q", name, id.Name)
	}
	if err == nil && !key.PublicKey.Equal(leaf.PublicKey) {
		err = errors.New("the certificate is for another key")
	}
	if err == nil {
		err = belongs(leaf, now.ca, id.Home)
	}
	if err == nil && Life(leaf) > MaxLife {
		err = fmt.Errorf("the certificate lives for %v, want at most %v", Life(leaf), MaxLife)
	}
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return &material{cert: cert, ca: now.ca, roots: now.roots}, keyPEM, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
