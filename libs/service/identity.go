package service

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// dailyRefusals is how many refused callers and peers have audit entries of their own in a day. Further ones are counted, one entry a
// second: whoever can reach the port could fill the disk with them.
const dailyRefusals = 10_000

// CertificatesBy has the service's certificate renewed by a, and not by the service secrets over the network. It is for secrets itself, whose
// Build calls it.
func (rt *Runtime) CertificatesBy(a renewal.Authority) { rt.authority = a }

// keepIdentity begins to renew the certificate and to follow the list of revoked ones. The client of secrets is another than that of Peer,
// and its circuit breaker silent: the Keeper says what fails.
func (rt *Runtime) keepIdentity() {
	authority := rt.authority
	if authority == nil {
		quiet := rt.clientConfig()
		quiet.Log = slog.New(slog.DiscardHandler)
		authority = renewal.NewRemote(client.NewPeer(roster.Secrets, rt.common.directory.Instancer(roster.Secrets), quiet, rt.calls))
	}
	rt.Go("certificate", renewal.NewKeeper(rt.Identity, authority, rt.Log, rt.Metrics).Run)
	rt.ReadyWhen("certificate", func(context.Context) error {
		return WithFix(rt.Identity.Check(time.Now()), "see that the service secrets is ready; then "+upFix)
	})
}

// clientConfig is what the clients of other services use of this one.
func (rt *Runtime) clientConfig() client.Config {
	return client.Config{Log: rt.Log, Tracing: rt.Tracing, Identity: rt.Identity, Refused: rt.refusedPeer}
}

// refusedCaller audits a caller that a route doesn't name.
func (rt *Runtime) refusedCaller(ctx context.Context, caller, route string) {
	rt.auditRefusal(ctx, "caller_not_named", audit.Entry{
		Action: "service_call_denied", Details: map[string]any{"caller": caller, "route": route}, RejectionReason: "caller not named by the route",
	})
}

// refusedConnection audits a connection whose other end showed no certificate that is good.
func (rt *Runtime) refusedConnection(peer net.Addr, r identity.Refusal) {
	address := peer.String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	details := claimed(r, map[string]any{"address": address})
	rt.Log.Warn("refused a connection", "reason", r.Reason, "details", details)
	rt.auditRefusal(context.Background(), r.Reason, audit.Entry{Action: "service_connection_denied", Details: details, RejectionReason: r.Reason})
}

// refusedPeer audits a service that was called and showed no certificate that is good.
func (rt *Runtime) refusedPeer(ctx context.Context, peer string, r identity.Refusal) {
	details := claimed(r, map[string]any{"peer": peer})
	rt.Log.WarnContext(ctx, "refused a service that was called", "reason", r.Reason, "details", details)
	rt.auditRefusal(ctx, r.Reason, audit.Entry{Action: "service_peer_denied", Details: details, RejectionReason: r.Reason})
}

// claimed adds to the details what a certificate claims that may be a stranger's.
func claimed(r identity.Refusal, details map[string]any) map[string]any {
	if r.Serial != "" {
		details["claimed_service"], details["serial"] = r.Service, r.Serial
	}
	return details
}

// auditRefusal writes the entry of something refused, or counts it; reason is one of a fixed set.
func (rt *Runtime) auditRefusal(ctx context.Context, reason string, e audit.Entry) {
	e.Category, e.Severity = audit.Security, audit.Error
	wait, _ := rt.refusals.Submit(ctx, "", reason, e)
	if err := wait(); err != nil {
		rt.Log.ErrorContext(ctx, "could not audit a refusal", "action", e.Action, "error", err)
	}
}
