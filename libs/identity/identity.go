// Package identity is how services know each other: mutual TLS 1.3 under a certificate authority of the installation's
// own, one certificate a service, whose one DNS name is the service's.
//
// A directory of an identity holds ca.pem, cert.pem and key.pem (PEM, the key PKCS #8).
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The files of an identity's directory.
const (
	CAFile   = "ca.pem"
	CertFile = "cert.pem"
	KeyFile  = "key.pem"
)

// Identity is a service's own certificate and the authority it trusts.
type Identity struct {
	Name string // the service, the certificate's only DNS name

	cert  tls.Certificate
	roots *x509.CertPool
}

// Load reads an identity from its directory.
func Load(dir string) (*Identity, error) {
	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("load identity: %w (has `rumi init` run?)", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("load identity: %s holds no certificate", filepath.Join(dir, CAFile))
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	name, err := nameOf(cert.Leaf)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: %w", filepath.Join(dir, CertFile), err)
	}
	return &Identity{Name: name, cert: cert, roots: roots}, nil
}

// Server is the configuration of a listener that admits holders of a certificate of the same authority only.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{id.cert},
		ClientAuth:                  tls.RequireAndVerifyClientCert,
		ClientCAs:                   id.roots,
		DynamicRecordSizingDisabled: true, // records that are small at first help browsers far away
	}
}

// Client is the configuration for calling the named service, at whatever address it is found.
func (id *Identity) Client(peer string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{id.cert},
		RootCAs:                     id.roots,
		ServerName:                  peer,
		DynamicRecordSizingDisabled: true, // as in Server
	}
}

// Caller is the service on the other end of a verified connection, "" where there is none.
func Caller(state *tls.ConnectionState) string {
	if state == nil || len(state.VerifiedChains) == 0 {
		return ""
	}
	name, err := nameOf(state.VerifiedChains[0][0])
	if err != nil {
		return ""
	}
	return name
}

func nameOf(cert *x509.Certificate) (string, error) {
	if cert == nil || len(cert.DNSNames) != 1 {
		return "", errors.New("a certificate of a service has exactly one DNS name")
	}
	return cert.DNSNames[0], nil
}
