package container

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// authoritiesTarget is where a pack's container has its bundle of certificate authorities.
const authoritiesTarget = "/run/rumi/egress-ca.pem"

// WriteAuthorities writes to path one bundle of the system's certificate authorities and the operator's, both PEM files. A
// pack verifies by it the servers that it reaches through a tunnel; most of what it may use for that knows one file only.
// A container that runs keeps the bundle that it was started with.
func WriteAuthorities(path, system, operator string) error {
	var bundle []byte
	for _, source := range []string{system, operator} {
		pem, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("read certificate authorities: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return fmt.Errorf("read certificate authorities: %s holds no certificate", source)
		}
		bundle = append(append(bundle, pem...), '\n')
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, bundle) {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".egress-ca-*")
	if err != nil {
		return fmt.Errorf("write certificate authorities: %w", err)
	}
	_, err = temp.Write(bundle)
	// Packs run as nobody. No power cut may leave half of it: the next start must find it whole or make it anew.
	err = errors.Join(err, temp.Chmod(0o444), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write certificate authorities: %w", errors.Join(err, os.Remove(temp.Name())))
	}
	return nil
}
