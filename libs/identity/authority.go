package identity

import (
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

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// How long certificates are valid. RenewBefore is the remaining time below which the next init issues a new certificate of a service.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 2 * 365 * 24 * time.Hour
	RenewBefore   = 365 * 24 * time.Hour
	clockSkew     = time.Hour // certificates are valid from this long before they are made: clocks of hosts differ
)

// Authority is the certificate authority of a Rumi home. Only init has its key; services get ca.pem, its certificate.
type Authority struct {
	Home string // the home's id, in all certificates that it issues; LoadAuthority leaves it empty, and the caller sets it

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
	return &Authority{cert: cert, key: signer}, nil
}

// Save writes ca.pem and key.pem (mode 0600) to dir, which must exist.
func (a *Authority) Save(dir string) error {
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	return writeFiles(dir, []file{{KeyFile, keyPEM}, {CAFile, encodeCertificate(a.cert.Raw)}})
}

// Issue makes a certificate with a new key for the named service, valid for two years from now. It writes the identity (ca.pem, cert.pem,
// key.pem and home_id, mode 0600) to dir, which must exist. It replaces an identity that is there.
func (a *Authority) Issue(service, dir string, now time.Time) error {
	if service == "" {
		return errors.New("issue certificate: a service needs a name")
	}
	if !ValidHome(a.Home) {
		return fmt.Errorf("issue certificate: %q is no home id", a.Home)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: service},
		DNSNames:    []string{service},
		URIs:        []*url.URL{homeURI(a.Home)},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	return writeFiles(dir, []file{
		{KeyFile, keyPEM},
		{CertFile, encodeCertificate(der)},
		{CAFile, encodeCertificate(a.cert.Raw)},
		{HomeFile, []byte(a.Home + "\n")},
	})
}

// Current says whether dir has an identity of the named service, issued by this authority for its home and valid for RenewBefore or longer.
// init issues a new one if not.
func (a *Authority) Current(service, dir string, now time.Time) bool {
	id, err := Load(dir)
	if err != nil || id.Name != service || id.Home != a.Home {
		return false
	}
	leaf := id.cert.Leaf
	return leaf.CheckSignatureFrom(a.cert) == nil && leaf.NotAfter.Sub(now) >= RenewBefore
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// file is the name and the content of a file.
type file struct {
	name string
	data []byte
}

// writeFiles writes the files in the given order, each of them completely or not at all. When it returns, contents and names are synced: a
// crash must not leave an empty certificate, or one without its key. Two processes must not call it for one dir at the same time.
func writeFiles(dir string, files []file) error {
	for _, f := range files {
		if err := atomicfile.WritePath(filepath.Join(dir, f.name), f.data, 0o600, atomicfile.TempName(f.name+".new")); err != nil {
			return fmt.Errorf("write identity: %w", err)
		}
	}
	return nil
}
