// Package authority signs the certificates of the services while the suite runs, and tells them which are revoked.
//
// It holds the key of the home's certificate authority; docs/adr/certificate-authority.md says why this service may. It signs only for the
// name that the caller's verified certificate has, so that no service can become another one. What is revoked stands in the
// authority's register, which `rumi certificates revoke` changes; each change is streamed to all services.
package authority

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	maxRequest = 4 << 10 // bytes of a request for a certificate; ours have 400
	maxGood    = 32      // certificates of one service that are good at a time: replicas share theirs, so that more is an attack or a loop

	lookInterval = 100 * time.Millisecond // how often the register's file is looked at: all services must know of a change within a second
)

// Authority is the authority of the home. Use Open. It is safe for concurrent use; several processes may share one folder.
type Authority struct {
	dir, home string
	life      time.Duration
	issued    outcome.Counter
	register  identity.Register
	audit     *audit.Log
	log       *slog.Logger

	mu      sync.Mutex
	denied  []identity.Denied
	changed chan struct{} // closed, and replaced, when denied changes
	broken  error         // why the register can't be read or audited; nil where it can
	seen    string        // the version of the register
}

// Open makes the Authority whose files are in dir, for the home with an id. life is that of the certificates that it signs. An authority
// that can't be read is no error: the service's other work doesn't need it, and Ready says what is wrong. Open registers metrics.
func Open(dir, home string, life time.Duration, log *slog.Logger, to *audit.Log, registry prometheus.Registerer) *Authority {
	a := &Authority{
		dir: dir, home: home, life: life, register: identity.NewRegister(dir), audit: to, log: log, changed: make(chan struct{}),
		issued: outcome.NewCounter(registry, "rumi_certificates_issued_total", "Certificates of services that were asked for: ok, refused, cancelled, failed.",
			outcome.OK, outcome.Refused, outcome.Canceled, outcome.Failed),
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_authority_expiry_timestamp_seconds", Help: "When the home's certificate authority ends, and every certificate with it; 0 while it can't be read.",
	}, a.ends))
	return a
}

// load reads the authority. It is read for each certificate: that is rare, and an authority that was restored or made anew counts at once.
func (a *Authority) load() (*identity.Authority, error) {
	authority, err := identity.LoadAuthority(a.dir)
	if err != nil {
		return nil, err
	}
	authority.Home, authority.Life = a.home, a.life
	return authority, nil
}

// ends is when the authority ends, in Unix time; 0 where that can't be read.
func (a *Authority) ends() float64 {
	authority, err := a.load()
	if err != nil {
		return 0
	}
	return float64(authority.Ends().Unix())
}

// Ready is the readiness of the authority: it can be read, lasts long enough for the next certificates, and its register can be read.
func (a *Authority) Ready(context.Context) error {
	authority, err := a.load()
	if err != nil {
		return err
	}
	if left := time.Until(authority.Ends()); left < identity.MaxLife {
		return fmt.Errorf("the certificate authority ends at %s, and every certificate with it", authority.Ends().UTC().Format(time.RFC3339))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

// Caller is the service that asks, from the certificate that it has shown.
type Caller struct {
	Service string
	Serial  string
}

// SignFor signs a certificate for the caller, for the key of its request (PKCS #10, DER), and returns it (DER). A request that names another
// service or another home, or wants anything else, is a fault: 403, and audited. So is one of a caller whose certificate has been
// revoked a moment ago. The audit entry is written before the certificate is in the register, and that before it is returned.
func (a *Authority) SignFor(ctx context.Context, caller Caller, request []byte) ([]byte, error) {
	signed, err := a.signFor(ctx, caller, request)
	a.issued.Count(outcome.Of(err))
	return signed, err
}

func (a *Authority) signFor(ctx context.Context, caller Caller, request []byte) ([]byte, error) {
	parsed, err := parse(request)
	if err != nil {
		return nil, err
	}
	if asked := a.beyond(parsed, caller.Service); asked != "" {
		return nil, a.refuse(ctx, caller, asked)
	}
	authority, err := a.load()
	if err != nil {
		return nil, fault.Unavailable("The certificate authority can't be used").With("authority_unavailable").Because(err)
	}
	var cert *x509.Certificate
	err = a.register.Change(func(all []identity.Issued) ([]identity.Issued, error) {
		if err := a.judge(ctx, caller, all); err != nil {
			return nil, err
		}
		if cert, err = authority.Sign(caller.Service, parsed.PublicKey, time.Now()); err != nil {
			return nil, err
		}
		if err := a.auditIssue(ctx, caller, cert); err != nil {
			return nil, err
		}
		return append(all, identity.Entry(cert)), nil
	})
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// subjectAltName is the one extension of a request that is known.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// parse reads a request and checks its signature: who sends it has the key.
func parse(request []byte) (*x509.CertificateRequest, error) {
	if len(request) > maxRequest {
		return nil, fault.Invalid("Invalid certificate request: longer than %d bytes", maxRequest).With("invalid_certificate_request")
	}
	parsed, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = parsed.CheckSignature()
	}
	if err != nil {
		return nil, fault.Invalid("Invalid certificate request").With("invalid_certificate_request").Because(err)
	}
	if parsed.PublicKeyAlgorithm != x509.ECDSA && parsed.PublicKeyAlgorithm != x509.Ed25519 {
		return nil, fault.Invalid("Invalid certificate request: want an ECDSA or Ed25519 key").With("invalid_certificate_request")
	}
	return parsed, nil
}

// beyond says what a request names beyond the service and this home; "" for nothing. Nothing of a request but its key gets into a
// certificate. It is refused all the same: who asks for another name isn't what it says it is.
func (a *Authority) beyond(r *x509.CertificateRequest, service string) string {
	switch {
	case r.Subject.CommonName != "" && r.Subject.CommonName != service,
		slices.ContainsFunc(r.DNSNames, func(name string) bool { return name != service }):
		return "another service"
	case len(r.URIs) > 1, len(r.URIs) == 1 && !identity.OfHome(r.URIs[0], a.home):
		return "another home"
	case len(r.IPAddresses) > 0, len(r.EmailAddresses) > 0:
		return "addresses"
	case slices.ContainsFunc(r.Extensions, func(e pkix.Extension) bool { return !e.Id.Equal(subjectAltName) }):
		return "extensions"
	}
	return ""
}

// judge decides whether the caller may have a certificate, by the register.
func (a *Authority) judge(ctx context.Context, caller Caller, all []identity.Issued) error {
	now, good := time.Now(), 0
	for _, i := range all {
		if i.Serial == caller.Serial && i.Revoked() {
			return a.refuse(ctx, caller, "by a revoked certificate")
		}
		if i.Service == caller.Service && !i.Revoked() && now.Before(i.NotAfter) {
			good++
		}
	}
	if good >= maxGood {
		return fault.Limited("Service '%s' has %d certificates that are good; one must end first, or `rumi certificates revoke %s` must end them",
			caller.Service, good, caller.Service).With("too_many_certificates")
	}
	return nil
}

// refuse audits a request that must not be granted, and returns the fault.
func (a *Authority) refuse(ctx context.Context, caller Caller, asked string) error {
	a.log.WarnContext(ctx, "refused a request for a certificate", "caller", caller.Service, "serial", caller.Serial, "asked", asked)
	err := a.audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Critical, Action: "certificate_refused",
		Details: map[string]any{"caller": caller.Service, "serial": caller.Serial, "asked": asked}, RejectionReason: "a service gets certificates of its own name only",
	})
	if err != nil {
		return err
	}
	return fault.Denied("A service gets certificates of its own name only").With("certificate_refused")
}

func (a *Authority) auditIssue(ctx context.Context, caller Caller, cert *x509.Certificate) error {
	return a.audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Info, Action: "certificate_issued", Success: true,
		Details: map[string]any{
			"service": caller.Service, "serial": identity.Serial(cert), "not_after": cert.NotAfter.UTC().Format(time.RFC3339), "previous_serial": caller.Serial,
		},
	})
}

// Run looks at the register until ctx ends, and publishes what is revoked.
func (a *Authority) Run(ctx context.Context) error {
	return periodic.Run(ctx, lookInterval, a.look, periodic.Immediately)
}

// look reads the register if its file has changed. A revocation counts before it is audited: nobody waits for an answer, and an audit log
// that fails must not keep a stolen certificate good. Its entry is tried again until it is written.
func (a *Authority) look(ctx context.Context) {
	now := a.register.Version()
	a.mu.Lock()
	same := now == a.seen && a.broken == nil && a.denied != nil
	a.mu.Unlock()
	if same {
		return
	}
	all, err := a.register.Read()
	if err == nil {
		a.publish(identity.DeniedOf(all))
		err = a.auditRevoked(ctx, all)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && (a.broken == nil || a.broken.Error() != err.Error()) {
		a.log.ErrorContext(ctx, "the register of certificates is in trouble; the last known list stays in force", "error", err)
	}
	a.broken, a.seen = err, now
}

// auditRevoked writes the entries of revocations that have none, and notes in the register that they have.
func (a *Authority) auditRevoked(ctx context.Context, all []identity.Issued) error {
	due := func(i identity.Issued) bool { return i.Revoked() && !i.Audited }
	if !slices.ContainsFunc(all, due) {
		return nil
	}
	return a.register.Change(func(all []identity.Issued) ([]identity.Issued, error) { // by one process of several
		for i := range all {
			if !due(all[i]) {
				continue
			}
			err := a.audit.Write(ctx, audit.Entry{
				Category: audit.Security, Severity: audit.Warning, Action: "certificate_revoked", Success: true,
				Details: map[string]any{"service": all[i].Service, "serial": all[i].Serial, "revoked_at": all[i].RevokedAt.UTC().Format(time.RFC3339)},
			})
			if err != nil {
				return nil, err
			}
			all[i].Audited = true
		}
		return all, nil
	})
}

func (a *Authority) publish(denied []identity.Denied) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.denied != nil && slices.Equal(denied, a.denied) {
		return
	}
	a.denied = append([]identity.Denied{}, denied...)
	close(a.changed)
	a.changed = make(chan struct{})
}

// Denied is the list of revoked certificates, and a channel that is closed when there is another. It is nil until the register was read.
func (a *Authority) Denied() (list []identity.Denied, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.denied, a.changed
}

// Own is the authority as this service itself uses it, to renew its own certificate.
func (a *Authority) Own(id *identity.Identity) Own { return Own{a, id} }

// Own implements renewal.Authority without a network.
type Own struct {
	authority *Authority
	id        *identity.Identity
}

// Sign implements renewal.Authority.
func (o Own) Sign(ctx context.Context, request []byte) ([]byte, error) {
	return o.authority.SignFor(ctx, Caller{Service: o.id.Name, Serial: identity.Serial(o.id.Certificate())}, request)
}

// Follow implements renewal.Authority.
func (o Own) Follow(ctx context.Context, apply func([]identity.Denied)) error {
	for {
		list, changed := o.authority.Denied()
		if list != nil {
			apply(list)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
