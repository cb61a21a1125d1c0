// Package identity authenticates services to each other by mutual TLS 1.3. Each Rumi home has its own certificate authority, and each service
// one certificate: its only DNS name is the service's name, its only URI the home's id.
//
// The directory of an identity has ca.pem, cert.pem and key.pem (PEM, the key PKCS #8), and home_id: the id of the Rumi home that the
// service belongs to.
//
// identity.go is what a service needs, authority.go what init needs to issue certificates, home.go the id of a home.
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

// Identity is a service's certificate with its key, and the authority that it trusts. Use Load. It never changes.
type Identity struct {
	Name string // the service, the certificate's only DNS name
	Home string // the id of the Rumi home: 32 lowercase hex digits, the same for all services of a home

	cert  tls.Certificate
	roots *x509.CertPool
}

// Load reads an identity from its directory. If a file is missing or the files don't belong together, that is an error which says what to run.
// Load never makes a certificate or a home id itself: only init does, once for all services.
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

// runInit is the end of errors about an identity that is missing or outdated: init makes a new one.
const runInit = " (run init: docker compose up --detach)"

// unreadable adds to an error of reading what to do about it, if that is known.
func unreadable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("load identity: %w%s", err, runInit)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("load identity: %w for uid %d", err, os.Geteuid())
	}
	return fmt.Errorf("load identity: %w", err)
}

// Server is the TLS configuration of a service's listener. It admits only clients with a certificate of the same authority and the same home.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{id.cert},
		ClientAuth:                  tls.RequireAndVerifyClientCert,
		ClientCAs:                   id.roots,
		VerifyConnection:            id.sameHome,
		DynamicRecordSizingDisabled: true, // small first records help browsers over slow links; services only lose by them
	}
}

// Client is the TLS configuration of calls of the service peer. The server's certificate must have that name, whatever its address is: so
// an attacker who changes DNS can't take a service's calls.
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

// sameHome refuses a peer of another home. Its certificate may be of the same authority: someone copied the folder of a home, authority
// included, and init gave the copy a new id.
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

// Caller is the name of the service on the other end of a connection, from its verified certificate. It is "" without TLS or without a
// verified certificate.
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

// nameOf is the service that a certificate was issued for.
func nameOf(cert *x509.Certificate) (string, error) {
	if cert == nil || len(cert.DNSNames) != 1 {
		return "", errors.New("a certificate of a service has exactly one DNS name")
	}
	return cert.DNSNames[0], nil
}
