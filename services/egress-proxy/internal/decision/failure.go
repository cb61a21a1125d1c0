package decision

import (
	"fmt"
	"strings"

	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

// Kind is a failure's error_type in an answer to a pack (contract.md, "Egress").
type Kind string

// The kinds. Packs test for them: they are part of the protocol.
const (
	KindValidation Kind = "validation_error"   // the request breaks a rule of the protocol that a pack can mend
	KindProtocol   Kind = "protocol_error"     // the request could not be read at all
	KindGrant      Kind = "grant_denied"       // the pack's approval or its network grant doesn't allow it
	KindBlocked    Kind = "blocked"            // the destination is closed to every pack
	KindRate       Kind = "rate_limited"       // too many requests, or too many bytes
	KindTimeout    Kind = "timeout"            // one of the request's time limits has passed
	KindDNS        Kind = "dns_error"          // the name has no address
	KindRefused    Kind = "connection_refused" // no connection to the server could be made
	KindTLS        Kind = "ssl_error"          // the TLS handshake failed
	KindUpstream   Kind = "upstream_error"     // the server broke off, or sent what isn't HTTP
	KindTooLarge   Kind = "response_too_large" // the answer is longer than an answer may be
	KindClient     Kind = "client_closed"      // the pack closed its connection first
	KindRedirects  Kind = "too_many_redirects" // more redirects than a request may follow
	KindInternal   Kind = "internal_error"     // the audit log couldn't be written, or a fault of our own
)

// Reasons are all values of Failure.Reason: the audit log's blocked_reason, and a label of the metrics, of which each must be known from the start.
var Reasons = []string{
	grant.Denied, grant.RuleDenied, grant.BodyDenied, grant.PolicyDenied, grant.ModifiedDenied, "grant_changed", "gate_closed",
	"rate_limited", "budget_exceeded", "too_many_streams",
	"internal_ip_blocked", "internal_name_blocked", "dns_blocked", "dns_rebinding_blocked", "tls_required", "sni_mismatch",
}

// FailedKinds are all kinds of failures that are not denials.
var FailedKinds = []Kind{
	KindValidation, KindProtocol, KindTimeout, KindDNS, KindRefused, KindTLS, KindUpstream, KindTooLarge, KindClient, KindRedirects, KindInternal,
}

// Failure is why a request gets no answer from its server: it was denied by policy, or it failed.
type Failure struct {
	Kind   Kind
	Text   string // for the pack; it contains no address and nothing about our own network
	Reason string // blocked_reason in the audit log; "" for a request that failed rather than being denied
	Detail string // for the audit log only
}

// Denied says whether policy denied the request, rather than the request having failed.
func (f *Failure) Denied() bool { return f.Reason != "" }

// Invalid is a request that breaks a rule of the protocol.
func Invalid(format string, args ...any) *Failure {
	return &Failure{Kind: KindValidation, Text: fmt.Sprintf(format, args...)}
}

// Protocol is a request that can't be read.
func Protocol(text string) *Failure { return &Failure{Kind: KindProtocol, Text: text} }

// GrantDenied is a request that the pack's approval or grant doesn't allow. The pack gets the reason, because its operator can change that.
func GrantDenied(blockedReason, why string) *Failure {
	return &Failure{Kind: KindGrant, Text: "Network access denied: " + why, Reason: blockedReason, Detail: why}
}

// Blocked is a request to a destination that is closed to every pack. The text is always the same: a pack must not find out from it which
// names and addresses mean something inside our network. The detail goes to the audit log.
func Blocked(blockedReason, detail string) *Failure {
	return &Failure{Kind: KindBlocked, Text: "Request blocked by security policy", Reason: blockedReason, Detail: detail}
}

// WithDetail returns a copy of f with a detail for the audit log. f itself may be one of the shared values below.
func (f *Failure) WithDetail(detail string) *Failure {
	c := *f
	c.Detail = detail
	return &c
}

// Failures that are always the same. They are shared and compared by address: never change one.
var (
	RateLimited    = &Failure{Kind: KindRate, Text: "Rate limit exceeded", Reason: "rate_limited"}
	DailyQuota     = &Failure{Kind: KindRate, Text: "Daily egress budget exceeded", Reason: "budget_exceeded"}
	TooManyStreams = &Failure{Kind: KindRate, Text: "Too many requests under way", Reason: "too_many_streams"}
	TooLarge       = &Failure{Kind: KindTooLarge, Text: "Response too large (max: 4194304 bytes)"}
	TimedOut       = &Failure{Kind: KindTimeout, Text: "Request timed out"}
	NotResolved    = &Failure{Kind: KindDNS, Text: "Name could not be resolved"}
	ClientClosed   = &Failure{Kind: KindClient, Text: "Client closed the connection"}
	BadBody        = &Failure{Kind: KindProtocol, Text: "Request body is not well-formed"}
	Internal       = &Failure{Kind: KindInternal, Text: "Internal error"}
)

// Clip makes a text that a pack or a server sent fit for an answer, a log line or an audit entry: 100 bytes at most, valid UTF-8, without
// control characters.
func Clip(s string) string {
	const limit = 100
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text.Clip(s, limit)), "?")
}
