// Package identity is how services know each other: mutual TLS 1.3 under a certificate authority of the installation's
// own, one certificate a service, whose one DNS name is the service's.
//
// A directory of an identity holds ca.pem, cert.pem and key.pem (PEM, the key PKCS #8), and home_id: the id of the Rumi
// home that the service belongs to.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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
	Home string // the id of the Rumi home: 32 lowercase hex digits, the same for all services of a home

	cert  tls.Certificate
	roots *x509.CertPool
}

// Load reads an identity from its directory. It never makes up what is missing: only `rumi init` may.
func Load(dir string) (*Identity, error) {
	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, unreadable(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("load identity: %s holds no certificate", filepath.Join(dir, CAFile))
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, unreadable(err)
	}
	name, err := nameOf(cert.Leaf)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: %w", filepath.Join(dir, CertFile), err)
	}
	home, err := ReadHome(filepath.Join(dir, HomeFile))
	if err != nil {
		return nil, unreadable(err)
	}
	switch issued, err := homeOf(cert.Leaf); {
	case err != nil:
		return nil, fmt.Errorf("load identity: %s: %w%s", filepath.Join(dir, CertFile), err, runInit)
	case issued != home:
		return nil, fmt.Errorf("load identity: %s was issued in home %s, but %s says %s%s",
			filepath.Join(dir, CertFile), issued, HomeFile, home, runInit)
	}
	return &Identity{Name: name, Home: home, cert: cert, roots: roots}, nil
}

// runInit says what mends an identity that is missing or old.
const runInit = " (run init: docker compose up --detach)"

// unreadable says what mends the error, where that is known.
func unreadable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("load identity: %w%s", err, runInit)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("load identity: %w for uid %d", err, os.Geteuid())
	}
	return fmt.Errorf("load identity: %w", err)
}

// Server is the configuration of a listener that admits holders of a certificate of the same authority and home only.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{id.cert},
		ClientAuth:                  tls.RequireAndVerifyClientCert,
		ClientCAs:                   id.roots,
		VerifyConnection:            id.sameHome,
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
		VerifyConnection:            id.sameHome,
		DynamicRecordSizingDisabled: true, // as in Server
	}
}

// sameHome refuses a peer of another home, which may hold a certificate of the same authority where a home was copied.
func (id *Identity) sameHome(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the peer showed no certificate")
	}
	home, err := homeOf(state.PeerCertificates[0])
	if err != nil {
		return err
	}
	if home != id.Home {
		return fmt.Errorf("the peer belongs to the Rumi home %s, this service to %s", home, id.Home)
	}
	return nil
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
