// Package identity authenticates services to each other by mutual TLS 1.3. Each Rumi home has its own certificate authority, and each service
// a certificate: its only DNS name is the service's name, its only URI the home's id. A certificate lives for MaxLife at most, and a longer
// one is refused, whoever signed it.
//
// The folder of an identity has ca.pem (the authority's certificate), identity.pem (the service's key, PKCS #8, and its certificate, in one
// file, so that no reader ever sees a key with the certificate of another), home_id, and denied.json: the revoked certificates, as far as
// the service has heard of them.
//
// Read them in this order:
//
//	identity.go    Identity: what a service shows and whom it admits
//	folder.go      its folder, read anew when it changes; all replicas of a service share one
//	renew.go       when a certificate is renewed, and how; the loop is in the package renewal
//	conn.go        the connections that stand on certificates, and when they end
//	denied.go      the list of revoked certificates
//	refusal.go     why a handshake failed, for the audit log
//	authority.go   the authority: init, `rumi certificates` and the service secrets have its key
//	register.go    which certificates the authority has issued
//	home.go        the id of a home
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Identity is a service's certificate with its key, the authority that it trusts, and the connections that stand on both. Use Load. It is
// safe for concurrent use. Certificate and authority change while it is used: Reload and Renew replace them, and the next handshake
// shows the new ones.
type Identity struct {
	Name string // the service, the certificate's only DNS name
	Home string // the id of the Rumi home: 32 lowercase hex digits, the same for all services of a home

	dir     string
	jitter  float64 // part of the time for renewal after which this process begins; see renewAt
	current atomic.Pointer[material]

	mu      sync.Mutex // a certificate that is denied while its handshake ends must not be admitted: see Conn.Admit
	denied  map[string]Denied
	conns   map[*Conn]struct{}
	seen    [2]stamp // of identity.pem and denied.json, as they were read last
	refused string   // why the identity in the folder isn't taken over; "" where it is
}

// material is what the folder of an identity holds at one time.
type material struct {
	cert  tls.Certificate // with its Leaf
	ca    []byte          // ca.pem
	roots *x509.CertPool
}

// Load reads an identity from its folder. If a file is missing or the files don't belong together, that is an error which says what to run.
// Load never makes a certificate or a home id itself: only init does, once for all services. A certificate that has ended is no error: its
// successor may come by Reload.
func Load(dir string) (*Identity, error) {
	m, home, err := read(dir)
	if err != nil {
		return nil, err
	}
	name, err := nameOf(m.cert.Leaf)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: %w", dir, err)
	}
	id := &Identity{Name: name, Home: home, dir: dir, jitter: rand.Float64(), denied: map[string]Denied{}, conns: map[*Conn]struct{}{}}
	id.current.Store(m)
	denied, err := readDenied(dir)
	if err != nil {
		return nil, err
	}
	id.Deny(denied)
	return id, nil
}

// Certificate is the service's certificate at this time.
func (id *Identity) Certificate() *x509.Certificate { return id.current.Load().cert.Leaf }

// Server is the TLS configuration of a service's listener. It admits only clients with a certificate of the same authority and the same home
// that isn't denied. Each handshake shows the certificate of its time.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := id.current.Load()
			return &tls.Config{
				MinVersion:                  tls.VersionTLS13,
				Certificates:                []tls.Certificate{m.cert},
				ClientAuth:                  tls.RequireAndVerifyClientCert,
				ClientCAs:                   m.roots,
				VerifyConnection:            id.verify,
				SessionTicketsDisabled:      true, // clients keep none; and a ticket would outlive the certificate that it was given to
				DynamicRecordSizingDisabled: true, // small first records help browsers over slow links; services only lose by them
			}, nil
		},
	}
}

// Client is the TLS configuration of calls of the service peer. The server's certificate must have that name, whatever its address is: so
// an attacker who changes DNS can't take a service's calls. It is for connections that are made soon: one that is kept shows new
// certificates, but trusts the authority of its time.
func (id *Identity) Client(peer string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &id.current.Load().cert, nil
		},
		RootCAs:                     id.current.Load().roots,
		ServerName:                  peer,
		VerifyConnection:            id.verify,
		DynamicRecordSizingDisabled: true, // as in Server
	}
}

// verify refuses what the chain of signatures doesn't show: a peer of another home, a certificate that lives too long, a revoked one. A
// peer of another home may have a certificate of the same authority: someone copied the folder of a home, authority included, and
// init gave the copy a new id.
func (id *Identity) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return &verifyError{NoCertificate, nil, "the peer showed no certificate"}
	}
	peer := state.PeerCertificates[0]
	home, err := homeOf(peer)
	switch {
	case err != nil:
		return &verifyError{OtherHome, peer, err.Error()}
	case home != id.Home:
		return &verifyError{OtherHome, peer, fmt.Sprintf("the peer belongs to the Rumi home %s, this service to %s", home, id.Home)}
	case peer.NotAfter.Sub(peer.NotBefore) > MaxLife:
		return &verifyError{LivesTooLong, peer, fmt.Sprintf("the peer's certificate lives for more than %v; its service needs a new one: docker compose up --detach", MaxLife)}
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.deniedError(peer)
}

// deniedError is why a certificate isn't admitted although it is valid, nil where it is. id.mu must be held.
func (id *Identity) deniedError(peer *x509.Certificate) error {
	if _, ok := id.denied[Serial(peer)]; ok {
		return &verifyError{Revoked, peer, "the peer's certificate is revoked"}
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

// Serial is how a certificate is named in lists and audit entries: its serial number in lowercase hex digits, two for each byte as openssl
// shows it.
func Serial(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }

// nameOf is the service that a certificate was issued for.
func nameOf(cert *x509.Certificate) (string, error) {
	if cert == nil || len(cert.DNSNames) != 1 {
		return "", errors.New("a certificate of a service has exactly one DNS name")
	}
	return cert.DNSNames[0], nil
}

// ended says whether a certificate has ended.
func ended(cert *x509.Certificate, now time.Time) bool { return now.After(cert.NotAfter) }
