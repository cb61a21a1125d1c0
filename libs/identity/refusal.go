package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/rumi-ai/rumi/libs/text"
)

// The reasons of a Refusal.
const (
	NoCertificate    = "no_certificate"
	UnknownAuthority = "unknown_authority"
	NotValidNow      = "not_valid_now" // it has ended, or not begun
	OtherName        = "other_name"    // a server of another name than the one that was called
	OtherHome        = "other_home"
	LivesTooLong     = "lives_too_long"
	Revoked          = "revoked"
	NoTLS            = "no_tls"           // plain HTTP, or something else
	Malformed        = "handshake_failed" // an older TLS, a certificate that can't be read
)

// Refusal is why a peer was refused in the handshake. What is in it of the peer's certificate is what the peer claims: an unknown authority
// may have signed any name.
type Refusal struct {
	Reason  string // one of those above
	Service string // the certificate's DNS name; "" without a certificate. At most 64 bytes, safe to be logged
	Serial  string // "" without a certificate
}

// verifyError is an error of Identity.verify.
type verifyError struct {
	reason string
	peer   *x509.Certificate
	text   string
}

func (e *verifyError) Error() string { return e.text }

// RefusalOf says why a handshake failed because of what the peer showed, or did not show. ok is false for the other errors, which say nothing
// of the peer's identity: a connection that broke, a time-out, a peer that refused us.
func RefusalOf(err error) (r Refusal, ok bool) {
	var (
		ours    *verifyError
		invalid *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		broken  net.Error
	)
	switch {
	case err == nil:
		return r, false
	case errors.As(err, &ours):
		return claim(ours.reason, ours.peer), true
	case errors.As(err, &invalid):
		var shown *x509.Certificate
		if len(invalid.UnverifiedCertificates) > 0 {
			shown = invalid.UnverifiedCertificates[0]
		}
		return claim(invalidReason(invalid.Err), shown), true
	case errors.As(err, &record):
		return Refusal{Reason: NoTLS}, true
	case errors.As(err, &broken), !strings.HasPrefix(err.Error(), "tls: "):
		return r, false
	case strings.Contains(err.Error(), "didn't provide a certificate"): // crypto/tls has no type for it
		return Refusal{Reason: NoCertificate}, true
	}
	return Refusal{Reason: Malformed}, true
}

// invalidReason is the reason for an error of x509.
func invalidReason(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return UnknownAuthority
	case errors.As(err, &name):
		return OtherName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return NotValidNow
	}
	return Malformed
}

// maxClaim bounds a name out of a stranger's certificate.
const maxClaim = 64

func claim(reason string, shown *x509.Certificate) Refusal {
	r := Refusal{Reason: reason}
	if shown == nil {
		return r
	}
	if len(shown.DNSNames) > 0 {
		r.Service = text.Clip(text.Escape(shown.DNSNames[0]), maxClaim)
	}
	r.Serial = text.Clip(Serial(shown), maxClaim)
	return r
}
