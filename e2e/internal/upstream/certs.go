// Package upstream is the HTTPS server that the demo's useful pack fetches from, with a certificate authority of its own.
package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The files of a server's folder.
const (
	CAFile   = "ca.pem"
	CertFile = "cert.pem"
	KeyFile  = "key.pem"
)

// The lifetime of a certificate, and the rest of it that MakeCertificates requires to keep the certificate.
const (
	certificateLife = 30 * 24 * time.Hour
	certificateRest = 24 * time.Hour
)

// MakeCertificates writes the certificate of a new authority (ca.pem), and a key and a certificate for host (key.pem, cert.pem), into dir. It does
// nothing if dir has them and they are valid for a day at least. Nobody keeps the authority's key.
func MakeCertificates(dir, host string, now time.Time) error {
	if usable(dir, host, now) {
		return nil
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	authority := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Rumi demo"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		DNSNames:    []string{host},
		NotBefore:   authority.NotBefore,
		NotAfter:    authority.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, server, authority, key.Public(), authorityKey)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	for _, file := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{
		{KeyFile, "PRIVATE KEY", keyDER, 0o600},
		{CertFile, "CERTIFICATE", serverDER, 0o644},
		{CAFile, "CERTIFICATE", authorityDER, 0o644},
	} {
		path := filepath.Join(dir, file.name)
		block := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der})
		if err := os.WriteFile(path, block, file.mode); err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
	}
	return nil
}

// usable reports whether dir has certificates for host that are valid for certificateRest at least.
func usable(dir, host string, now time.Time) bool {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return false
	}
	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now.Add(certificateRest)})
	return err == nil
}
