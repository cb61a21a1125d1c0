// Package cabundle makes the file of certificate authorities that packs' containers are given where the operator has authorities of their
// own (RUMI_EGRESS_CA_FILE).
//
// A pack verifies by it the servers that it reaches through a tunnel, as the egress proxy does for plain requests. It is one file because
// most of what a pack may use for that (SSL_CERT_FILE, REQUESTS_CA_BUNDLE, …) knows one file only.
package cabundle

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/authorities"
)

// System is where Debian, and the image of this service with it, has the public certificate authorities.
const System = "/etc/ssl/certs/ca-certificates.crt"

// Bundle is one PEM file of the system's certificate authorities and the operator's.
type Bundle struct {
	Path     string        // of the bundle
	System   string        // of the system's PEM file
	Operator func() []byte // what the operator's file holds at present, PEM
	Log      *slog.Logger
}

// Refresh brings the bundle up to date for a container that is about to start, and returns its path. Where that fails the container gets
// the bundle of before, which Write made at the latest when this service started: an operator's mistake in the file must not stop packs.
func (b *Bundle) Refresh() string {
	if err := b.Write(); err != nil {
		b.Log.Error("could not write certificate authorities; the pack has those from before", "error", err)
	}
	return b.Path
}

// Write writes the bundle, unless it is right already. A container has the file itself mounted, so it is replaced, never changed: what runs
// keeps the bundle that it was started with.
func (b *Bundle) Write() error {
	public, err := authorities.Read(b.System)
	if err != nil {
		return fmt.Errorf("read certificate authorities: %w", err)
	}
	operator := b.Operator()
	if !x509.NewCertPool().AppendCertsFromPEM(operator) {
		return errors.New("read certificate authorities: the operator's file holds no certificate")
	}
	bundle := slices.Concat(public, []byte{'\n'}, operator, []byte{'\n'})
	if old, err := os.ReadFile(b.Path); err == nil && bytes.Equal(old, bundle) {
		return nil
	}
	// Packs run as nobody. No power cut may leave half of it: the next start must find it whole or make it anew.
	if err := atomicfile.WritePath(b.Path, bundle, 0o444); err != nil {
		return fmt.Errorf("write certificate authorities: %w", err)
	}
	return nil
}
