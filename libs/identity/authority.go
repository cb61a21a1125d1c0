package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	clockSkew     = time.Hour // certificates are valid from this long before they are made, or a tenth of their life: clocks of hosts differ
)

// Authority is the certificate authority of a Rumi home. The service secrets and the commands of root have its key; the other services get
// ca.pem, its certificate.
type Authority struct {
	Home string        // the home's id, in all certificates that it signs; LoadAuthority leaves it empty, and the caller sets it
	Life time.Duration // of the certificates that it signs: MinLife to MaxLife; 0 is MaxLife

	dir  string // where Save wrote it or LoadAuthority read it, with the register; "" without
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a certificate authority for a new home, with a new key (ECDSA P-256) and a new home id, valid for ten years from now. Save
// writes the key and the certificate.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Rumi services"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &Authority{Home: NewHome(), cert: cert, key: key}, nil
}

// LoadAuthority reads an authority that Save wrote to dir. The error is fs.ErrNotExist (errors.Is) if there is none.
func LoadAuthority(dir string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", CAFile, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("load authority: %s holds no PEM block", KeyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", KeyFile, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load authority: %s is no ECDSA key", KeyFile)
	}
	if !cert.IsCA || !signer.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load authority: %s is not the certificate of %s", CAFile, KeyFile)
	}
	return &Authority{dir: dir, cert: cert, key: signer}, nil
}

// Save writes ca.pem and key.pem (mode 0600) to dir, which must exist. From then on what Issue signs is in the register of dir.
func (a *Authority) Save(dir string) error {
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	for _, f := range []file{{KeyFile, keyPEM}, {CAFile, encodeCertificate(a.cert.Raw)}} {
		if err := writeFile(dir, f); err != nil {
			return fmt.Errorf("save authority: %w", err)
		}
	}
	a.dir = dir
	return nil
}

// Ends is when the authority's own certificate ends, and with it all that it has signed.
func (a *Authority) Ends() time.Time { return a.cert.NotAfter }

// Sign signs a certificate of the named service for a public key, valid for Life, and never beyond the authority's own end. It asks
// nobody whether the service may have it.
func (a *Authority) Sign(service string, public crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	if service == "" {
		return nil, errors.New("sign certificate: a service needs a name")
	}
	if !ValidHome(a.Home) {
		return nil, fmt.Errorf("sign certificate: %q is no home id", a.Home)
	}
	life := a.Life
	if life == 0 {
		life = MaxLife
	}
	if life < MinLife || life > MaxLife {
		return nil, fmt.Errorf("sign certificate: a life of %v; want %v to %v", life, MinLife, MaxLife)
	}
	begins := now.Add(-min(clockSkew, life/10)).Truncate(time.Second)
	ends := begins.Add(life)
	if ends.After(a.cert.NotAfter) {
		ends = a.cert.NotAfter
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: service},
		DNSNames:    []string{service},
		URIs:        []*url.URL{homeURI(a.Home)},
		NotBefore:   begins,
		NotAfter:    ends,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Issue makes a certificate with a new key for the named service, and writes the identity (ca.pem, identity.pem and home_id, mode 0600) to
// dir, which must exist. It replaces an identity that is there. A renewal that the service has under way ends first, so that it doesn't
// replace what Issue writes.
func (a *Authority) Issue(service, dir string, now time.Time) error {
	_, err := a.IssueCertificate(service, dir, now)
	return err
}

// IssueCertificate is Issue, and gives the certificate.
func (a *Authority) IssueCertificate(service, dir string, now time.Time) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	unlock, err := waitLock(dir)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	defer unlock()
	cert, err := a.Sign(service, key.Public(), now)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if a.dir != "" {
		if err := NewRegister(a.dir).Add(cert); err != nil {
			return nil, fmt.Errorf("issue certificate: %w", err)
		}
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if err := writeFolder(dir, a.Home, encodeCertificate(a.cert.Raw), keyPEM, encodeCertificate(cert.Raw)); err != nil {
		return nil, err
	}
	for _, name := range formerFiles {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("issue certificate: %w", err)
		}
	}
	return cert, nil
}

// Current says whether dir has an identity of the named service, signed by this authority for its home, that isn't revoked, and that needs
// no other yet: less than half of its life is over, and it lives no longer than Life. init issues a new one if not.
func (a *Authority) Current(service, dir string, now time.Time) bool {
	leaf := a.usable(service, dir)
	life := a.Life
	if life == 0 {
		life = MaxLife
	}
	return leaf != nil && now.Before(at(leaf, renewFrom)) && Life(leaf) <= life
}

// Good says whether dir has an identity that can be used now, though it may be due for renewal.
func (a *Authority) Good(service, dir string, now time.Time) bool {
	leaf := a.usable(service, dir)
	return leaf != nil && !ended(leaf, now)
}

// usable is the certificate in dir, if it is one of the named service, of this authority and home, and not revoked; else nil.
func (a *Authority) usable(service, dir string) *x509.Certificate {
	m, home, err := read(dir)
	if err != nil || home != a.Home || m.cert.Leaf.CheckSignatureFrom(a.cert) != nil {
		return nil
	}
	if name, err := nameOf(m.cert.Leaf); err != nil || name != service {
		return nil
	}
	if a.dir != "" {
		if revoked, err := NewRegister(a.dir).Revoked(Serial(m.cert.Leaf)); err != nil || revoked {
			return nil
		}
	}
	return m.cert.Leaf
}
