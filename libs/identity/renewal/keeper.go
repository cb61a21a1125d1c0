// Package renewal keeps the identity of a running service good: its certificate is renewed long before it ends, revoked certificates are
// known within a second, and connections end with the certificates that they stand on. Nothing of it needs a restart.
//
// The service secrets signs (routes.go has its endpoints). While it is down nothing stops until certificates end: they are renewed from the
// half of their life on, so that there is the other half to mend it. The last known list of revoked certificates stays in force.
package renewal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// tick is how often the identity's folder and the ends of certificates are looked at.
const tick = 200 * time.Millisecond

// Authority signs certificates and knows which are revoked.
type Authority interface {
	// Sign is an identity.Signer.
	Sign(ctx context.Context, request []byte) ([]byte, error)
	// Follow calls apply with the list of revoked certificates, at once and after each change, until ctx ends or the connection to
	// the authority does. It is called again then.
	Follow(ctx context.Context, apply func([]identity.Denied)) error
}

// Keeper keeps one identity. Use NewKeeper.
type Keeper struct {
	id        *identity.Identity
	authority Authority
	log       *slog.Logger
	renewals  *prometheus.CounterVec
	serial    string // of the certificate that was last seen in use
}

// NewKeeper makes a Keeper, and registers its metrics.
func NewKeeper(id *identity.Identity, authority Authority, log *slog.Logger, metrics prometheus.Registerer) *Keeper {
	k := &Keeper{id: id, authority: authority, log: log, serial: identity.Serial(id.Certificate()), renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_certificate_renewals_total",
		Help: "Renewals of the service's certificate, by result (ok, failed).",
	}, []string{"result"})}
	metrics.MustRegister(k.renewals, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_certificate_expiry_timestamp_seconds",
		Help: "When the service's certificate ends, in seconds since 1970.",
	}, func() float64 { return float64(id.Certificate().NotAfter.Unix()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_certificates_denied",
		Help: "Revoked certificates that the service knows and refuses.",
	}, func() float64 { return float64(len(id.Denied())) }))
	for _, result := range []string{"ok", "failed"} {
		k.renewals.WithLabelValues(result) // at 0 from the start
	}
	return k
}

// Run keeps the identity until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { _ = periodic.Run(ctx, tick, k.look, periodic.Immediately) })
	work.Go(func() { k.follow(ctx) })
	work.Go(func() { k.renewWhenDue(ctx) })
	work.Wait()
	return nil
}

// look takes over what others wrote to the folder, and cuts what has ended.
func (k *Keeper) look(ctx context.Context) {
	if err := k.id.Reload(); err != nil {
		k.log.ErrorContext(ctx, "could not take over the identity in the folder", "error", err)
	}
	if now := identity.Serial(k.id.Certificate()); now != k.serial {
		k.serial = now
		k.log.InfoContext(ctx, "took over a certificate", "serial", now, "ends", k.id.Certificate().NotAfter)
	}
	if n := k.id.CutEnded(time.Now()); n > 0 {
		k.log.InfoContext(ctx, "cut connections of which a certificate has ended", "connections", n)
	}
}

// renewWhenDue renews the certificate when it is due, and tries again after a failure.
func (k *Keeper) renewWhenDue(ctx context.Context) {
	var next time.Time
	var pause time.Duration
	_ = periodic.Run(ctx, tick, func(ctx context.Context) {
		now := time.Now()
		if now.Before(k.id.RenewAt()) || now.Before(next) {
			return
		}
		first, most := pauses(identity.Life(k.id.Certificate()))
		renewed, err := k.id.Renew(ctx, k.authority.Sign)
		if err == nil {
			pause = 0
			if renewed {
				k.renewals.WithLabelValues("ok").Inc()
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		pause = min(max(first, 2*pause), most)
		next = time.Now().Add(pause)
		k.renewals.WithLabelValues("failed").Inc()
		k.log.WarnContext(ctx, "could not renew the certificate; trying again", "error", err, "ends", k.id.Certificate().NotAfter, "pause_seconds", pause.Seconds())
	})
}

// pauses are the first and the longest time between two attempts to renew a certificate: short for one that lives for minutes, and a few
// minutes for one that has a month left.
func pauses(life time.Duration) (first, most time.Duration) {
	return min(life/100, time.Second), min(life/40, 5*time.Minute)
}

// The pauses between two attempts to connect to the authority. A list that changes meanwhile must be known within a second of its return.
// One that refuses to tell is of an earlier version, until it is replaced.
const (
	firstPause   = 50 * time.Millisecond
	mostPause    = 500 * time.Millisecond
	refusedPause = 5 * time.Second
)

// follow keeps the list of revoked certificates.
func (k *Keeper) follow(ctx context.Context) {
	pause, warned := firstPause, false
	for ctx.Err() == nil {
		err := k.authority.Follow(ctx, func(list []identity.Denied) {
			pause, warned = firstPause, false
			k.deny(ctx, list)
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil && !warned {
			k.log.WarnContext(ctx, "lost the list of revoked certificates; the last known stays in force", "error", err)
			warned = true
		}
		wait := pause
		if fault.Is(err, fault.KindNotFound) || fault.Is(err, fault.KindDenied) {
			wait = refusedPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		pause = min(2*pause, mostPause)
	}
}

// deny takes over a list.
func (k *Keeper) deny(ctx context.Context, list []identity.Denied) {
	added, err := k.id.KeepDenied(list)
	if added > 0 {
		k.log.WarnContext(ctx, "refusing revoked certificates from now on", "certificates", added)
		if err := k.id.Reload(); err != nil && !errors.Is(err, context.Canceled) { // the own one may be among them, and its successor in the folder
			k.log.ErrorContext(ctx, "could not take over the identity in the folder", "error", err)
		}
	}
	if err != nil {
		k.log.ErrorContext(ctx, "could not keep the list of revoked certificates, which a restart forgets", "error", err)
	}
}
