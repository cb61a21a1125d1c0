package overview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/egress"
	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
)

// day is how far back denials are counted.
const day = 24 * time.Hour

// pending is the state of a candidate that waits for a decision.
const pending = "pending"

// Pack collects it. An unknown pack is approval's not-found fault; without approval there is no answer.
func (v *Views) Pack(ctx context.Context, id string) (api.Pack, error) {
	known, err := get[[]approval.Summary](ctx, v, approval.Overview, approval.OverviewRequest{PackID: id})
	if err != nil {
		return api.Pack{}, err
	}
	if len(known) != 1 {
		return api.Pack{}, fmt.Errorf("ask approval for pack %s: %d of them", id, len(known))
	}
	var (
		containers []jsontext.Value
		network    networkGrants
		refused    egress.DenialsResponse
		keys       secrets.ListResponse
		grants     broker.GrantsResponse
		handlers   wire.ListResponse[broker.HandlerItem]
		locks      wire.ListResponse[pip.LockItem]
	)
	s := newSections(ctx)
	var ceiling *policy.Policy // nil where it could not be asked
	s.add("policy", func(ctx context.Context) error {
		report, err := policycheck.Ask(ctx, v.Peer(egress.Service), policycheck.Request{})
		if err == nil {
			ceiling, err = policy.Parse(report.Policy)
		}
		return err
	})
	fetch(s, v, "container", broker.ListContainers, struct{}{}, &containers)
	fetch(s, v, "network", egress.List, struct{}{}, &network)
	fetch(s, v, "denials", egress.ListDenials, egress.DenialsRequest{PackID: id}, &refused)
	fetch(s, v, "secrets", secrets.List, struct{}{}, &keys)
	fetch(s, v, "grants", broker.ListGrants, broker.GrantsRequest{PrincipalID: id}, &grants)
	fetch(s, v, "handlers", broker.Candidates.List, wire.ListRequest{}, &handlers)
	fetch(s, v, "lock", pip.Candidates.List, wire.ListRequest{}, &locks)
	failed := s.wait()

	about := known[0]
	p := api.Pack{PackID: about.PackID, Status: about.Status, MayRun: about.MayRun, Identity: about.Identity, Version: about.Version,
		Description: about.Description, CreatedAt: about.CreatedAt, ApprovedAt: about.ApprovedAt, Digest: about.Digest, Error: about.Error,
		Container: jsontext.Value("null"), Errors: failed, Confirmation: about.Confirmation}
	lacks := func(section string) bool { _, ok := failed[section]; return ok }
	if !lacks("container") {
		if p.Container, err = containerOf(containers, id); err != nil {
			return api.Pack{}, err
		}
	}
	if !lacks("network") {
		if p.Network, err = networkOf(about, network.Grants[id]); err != nil {
			return api.Pack{}, err
		}
	}
	if p.Network != nil && ceiling != nil {
		asked := policy.Network{Domains: p.Network.Requested.Domains, Ports: p.Network.Requested.Ports}
		p.Network.Forbidden = ceiling.Network(origin.Of(ctx).Role, asked).First()
	}
	if !lacks("denials") {
		p.Denials24h = recent(refused.Denials, time.Now().Add(-day))
	}
	p.Secrets = secretsOf(about, keys, !lacks("secrets"), readable(grants, id), !lacks("grants"))
	p.Handlers = handlersOf(handlers, id)
	p.Lock = lockOf(locks, id)
	if p.Suspended, err = suspended(p.Network, grants.Grants[id]); err != nil {
		return api.Pack{}, err
	}
	p.Next = steps(&p, lacks)
	return p, nil
}

// What may be suspended, beside other permissions.
const (
	networkGrant = "network"
	secretsGet   = "secrets.get"
)

// suspended are the pack's grants that the policy suspends. No step proposes to grant them again: that would be refused.
func suspended(network *api.Network, held broker.PrincipalGrants) ([]api.Suspended, error) {
	all := []api.Suspended{}
	if network != nil {
		var granted struct {
			Suspended *policy.Violation `json:"suspended"`
		}
		if err := json.Unmarshal(network.Granted, &granted); err != nil {
			return nil, fmt.Errorf("read a grant: %w", err)
		}
		if granted.Suspended != nil {
			all = append(all, api.Suspended{What: networkGrant, Violation: *granted.Suspended})
		}
	}
	for _, permission := range slices.Sorted(maps.Keys(held.Permissions)) {
		if v := held.Permissions[permission].Suspended; v != nil {
			all = append(all, api.Suspended{What: permission, Violation: *v})
		}
	}
	return all, nil
}

func isSuspended(p *api.Pack, what string) bool {
	return slices.ContainsFunc(p.Suspended, func(s api.Suspended) bool { return s.What == what })
}

func containerOf(all []jsontext.Value, id string) (jsontext.Value, error) {
	for _, one := range all {
		var c struct {
			PackID string `json:"pack_id"`
		}
		if err := json.Unmarshal(one, &c); err != nil {
			return nil, fmt.Errorf("read a container: %w", err)
		}
		if c.PackID == id {
			return one, nil
		}
	}
	return jsontext.Value("null"), nil
}

func networkOf(about approval.Summary, granted jsontext.Value) (*api.Network, error) {
	n := &api.Network{Requested: api.Destinations{Domains: orEmpty(about.Requested.Domains), Ports: ports(about.Requested.Ports)}, Granted: granted,
		Missing: api.Destinations{Domains: []string{}, Ports: []int{}}}
	var now grant
	if len(granted) == 0 {
		n.Granted = jsontext.Value("null")
	} else if err := json.Unmarshal(granted, &now); err != nil {
		return nil, fmt.Errorf("read a grant: %w", err)
	}
	if !now.Enabled {
		now = grant{}
	}
	for _, domain := range n.Requested.Domains {
		if !now.allowsDomain(domain) {
			n.Missing.Domains = append(n.Missing.Domains, domain)
		}
	}
	for _, port := range n.Requested.Ports {
		if !now.allowsPort(port) {
			n.Missing.Ports = append(n.Missing.Ports, port)
		}
	}
	return n, nil
}

func recent(all []egress.Denial, since time.Time) *int64 {
	var n int64
	for _, d := range all {
		if d.LastSeen.After(since) {
			n += d.Count
		}
	}
	return &n
}

func secretsOf(about approval.Summary, keys secrets.ListResponse, keysKnown bool, granted []string, grantsKnown bool) []api.Secret {
	set := isSet(keys)
	all := []api.Secret{}
	add := func(key string, requested bool) {
		s := api.Secret{Key: key, Requested: requested}
		if keysKnown {
			s.Set = new(set[key])
		}
		if grantsKnown {
			s.Granted = new(slices.Contains(granted, key))
		}
		all = append(all, s)
	}
	for _, key := range about.Requested.Secrets {
		add(key, true)
	}
	for _, key := range granted {
		if !slices.Contains(about.Requested.Secrets, key) {
			add(key, false)
		}
	}
	return all
}

func handlersOf(all wire.ListResponse[broker.HandlerItem], id string) []api.Handler {
	out := []api.Handler{}
	for _, h := range all.Items {
		if c := h.Candidate; c.PackID == id {
			out = append(out, api.Handler{
				Slug: c.Slug, HandlerID: c.HandlerID, PermissionID: c.PermissionID, State: h.Status, CandidateKey: h.Key, LastError: h.LastError,
				Confirmation: h.Confirmation,
			})
		}
	}
	return out
}

func lockOf(all wire.ListResponse[pip.LockItem], id string) *api.Lock {
	var newest *pip.LockItem
	for i, l := range all.Items {
		if l.PackID == id && (newest == nil || l.CreatedAt.After(newest.CreatedAt)) {
			newest = &all.Items[i]
		}
	}
	if newest == nil {
		return nil
	}
	return &api.Lock{
		State: newest.Status, CandidateKey: newest.Key, Path: newest.Relpath, Packages: len(newest.Requirements), LastError: newest.LastError,
		Confirmation: newest.Confirmation,
	}
}

// steps are what is left until the pack runs with all that it asks for, in this order. A section that lacks its answer has none.
func steps(p *api.Pack, lacks func(section string) bool) []api.Step {
	steps := append([]api.Step{}, codeSteps(p)...)
	if n := p.Network; n != nil && !isSuspended(p, networkGrant) && n.Forbidden == nil && len(n.Missing.Domains)+len(n.Missing.Ports) > 0 {
		steps = append(steps, step("grant network", call(egress.PostGrant, egress.GrantRequest{}, wanted(p))))
	}
	steps = append(steps, secretSteps(p)...)
	if p.MayRun && p.Status != pack.StatusRunning && !lacks("container") {
		steps = append(steps, step("start", call(broker.StartContainer, broker.PackRequest{PackID: p.PackID}, nil)))
	}
	return steps
}

func step(what string, call api.Call) api.Step { return api.Step{What: what, Call: call} }

// codeSteps are the approvals that are missing: of the pack, of its handlers, of its lock.
func codeSteps(p *api.Pack) []api.Step {
	var steps []api.Step
	if p.Status.Undecided() || p.Confirmation != nil {
		steps = append(steps, step("review", call(approval.Review, approval.ReviewRequest{PackID: p.PackID}, nil)),
			step(withAsker("approve", p.Confirmation), approvePack(p.PackID, p.Confirmation)))
	}
	for _, h := range p.Handlers {
		if h.State == pending || h.Confirmation != nil {
			steps = append(steps, step(withAsker("approve handler "+h.Slug, h.Confirmation), call(broker.Approve, broker.ApproveRequest{Key: h.CandidateKey}, nil)))
		}
	}
	if p.Lock != nil && (p.Lock.State == pending || p.Lock.Confirmation != nil) {
		steps = append(steps, step(withAsker("approve lock "+p.Lock.Path, p.Lock.Confirmation), approveLock(p.Lock.CandidateKey, p.Lock.Confirmation)))
	}
	return steps
}

// withAsker adds to the name of a step who asked for it, so that another person takes it.
func withAsker(what string, asked *confirm.Confirmation) string {
	if asked == nil {
		return what
	}
	return fmt.Sprintf("%s, which '%s' asked for", what, asked.AskedBy)
}

// secretSteps are the secrets that have no value, and a grant of those that the pack asks for and may not read. A grant that is posted
// replaces the one before, so that the keys which are granted are in it, too.
func secretSteps(p *api.Pack) []api.Step {
	var steps []api.Step
	keys, missing := []string{}, false
	for _, s := range p.Secrets {
		if s.Requested && s.Set != nil && !*s.Set {
			steps = append(steps, step("set secret "+s.Key, call(secrets.Set, secrets.SetRequest{}, map[string]any{"key": s.Key, "value": nil})))
		}
		if s.Granted != nil && (*s.Granted || s.Requested) {
			keys = append(keys, s.Key)
			missing = missing || !*s.Granted
		}
	}
	if missing && !isSuspended(p, secretsGet) {
		steps = append(steps, step("grant secrets", call(broker.PostGrant, broker.GrantRequest{}, map[string]any{
			"principal_id": p.PackID, "permission_id": secretsGet, "config": map[string]any{"allowed_keys": keys}})))
	}
	return steps
}

// wanted is a grant of what is granted and what is missing. A grant that is posted replaces the one before, so that rules and an
// end must be in it, too.
func wanted(p *api.Pack) map[string]any {
	body := map[string]any{}
	var now struct {
		Enabled        bool           `json:"enabled"`
		AllowedDomains []string       `json:"allowed_domains"`
		AllowedPorts   []int          `json:"allowed_ports"`
		Rules          jsontext.Value `json:"rules"`
		AllowTunnel    bool           `json:"allow_tunnel"`
		ExpiresAt      *time.Time     `json:"expires_at"`
	}
	if err := json.Unmarshal(p.Network.Granted, &now); err == nil && now.Enabled {
		if len(now.Rules) > 0 && now.Rules.Kind() == '[' {
			body["rules"], body["allow_tunnel"] = now.Rules, now.AllowTunnel
		}
		if now.ExpiresAt != nil {
			body["expires_at"] = now.ExpiresAt
		}
	} else {
		now.AllowedDomains, now.AllowedPorts = nil, nil
	}
	body["pack_id"] = p.PackID
	body["allowed_domains"] = append(slices.Clone(now.AllowedDomains), p.Network.Missing.Domains...)
	body["allowed_ports"] = append(slices.Clone(now.AllowedPorts), p.Network.Missing.Ports...)
	return body
}

func ports(requested []uint16) []int {
	all := make([]int, len(requested))
	for i, port := range requested {
		all[i] = int(port)
	}
	return all
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
