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

// How long certificates are good for. A leaf is renewed by the next `rumi init` that finds less than RenewBefore left.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 2 * 365 * 24 * time.Hour
	RenewBefore   = 365 * 24 * time.Hour
	clockSkew     = time.Hour // certificates are good from this long before they were made
)

// Authority issues the certificates of an installation.
type Authority struct {
	Home string // the id of the Rumi home it issues for; LoadAuthority leaves it empty

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a certificate authority with a key of its own (ECDSA P-256), good for ten years, for a new home.
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

// LoadAuthority reads what Save wrote; errors.Is(err, fs.ErrNotExist) where there is none.
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

// Save writes ca.pem and key.pem (0600) to dir, which must exist.
func (a *Authority) Save(dir string) error {
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	return writeFiles(dir, []file{{KeyFile, keyPEM}, {CAFile, encodeCertificate(a.cert.Raw)}})
}

// Issue makes a certificate for the named service, good for two years, and writes the identity (ca.pem, cert.pem, key.pem
// and home_id, 0600) to dir, which must exist.
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

// Current says whether dir holds an identity of the named service that this authority issued for its home and that is good
// for RenewBefore at least.
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

// writeFiles writes the files in the order given, each whole or not at all. When it returns they are on the disk, their
// names too: a crash must not leave a certificate without its key, or an empty one. Two inits don't write at a time.
func writeFiles(dir string, files []file) error {
	for _, f := range files {
		if err := atomicfile.WritePath(filepath.Join(dir, f.name), f.data, 0o600, atomicfile.TempName(f.name+".new")); err != nil {
			return fmt.Errorf("write identity: %w", err)
		}
	}
	return nil
}
