package container

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/rumi-ai/rumi/libs/authorities"
)

// authoritiesTarget is where a pack's container has its bundle of certificate authorities.
const authoritiesTarget = "/run/rumi/egress-ca.pem"

// WriteAuthorities writes to path one bundle of the system's certificate authorities, a PEM file, and the operator's, PEM. A
// pack verifies by it the servers that it reaches through a tunnel; most of what it may use for that knows one file only.
// A container that runs keeps the bundle that it was started with.
func WriteAuthorities(path, system string, operator []byte) error {
	public, err := authorities.Read(system)
	if err != nil {
		return fmt.Errorf("read certificate authorities: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(operator) {
		return errors.New("read certificate authorities: the operator's file holds no certificate")
	}
	bundle := slices.Concat(public, []byte{'\n'}, operator, []byte{'\n'})
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
