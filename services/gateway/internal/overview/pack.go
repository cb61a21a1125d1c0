package overview

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/pack"
)

// day is how far back denials are counted.
const day = 24 * time.Hour

// Pack is all about one pack. What could not be asked is null and named in Errors.
type Pack struct {
	PackID      string            `json:"pack_id"`
	Status      pack.Status       `json:"status"`
	MayRun      bool              `json:"may_run"`
	Identity    string            `json:"pack_identity"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	CreatedAt   time.Time         `json:"created_at"`
	ApprovedAt  *time.Time        `json:"approved_at"`
	Digest      *string           `json:"digest"`
	Error       *string           `json:"error"`
	Container   jsontext.Value    `json:"container"` // as in GET /api/containers; null for none
	Network     *Network          `json:"network"`
	Secrets     []Secret          `json:"secrets"`
	Handlers    []Handler         `json:"handlers"`
	Lock        *Lock             `json:"lock"`        // the newest; null for none
	Denials24h  *int64            `json:"denials_24h"` // requests refused, of destinations that were refused in the last 24 h
	Next        []Step            `json:"next"`        // what is left to do, in this order
	Errors      map[string]string `json:"errors"`
}

// Network is what a pack asks for beside what it was granted.
type Network struct {
	Requested Destinations   `json:"requested"`
	Granted   jsontext.Value `json:"granted"` // as in GET /api/network/list; null for none
	Missing   Destinations   `json:"missing"`
}

// Destinations are domains, patterns among them, and ports.
type Destinations struct {
	Domains []string `json:"allowed_domains"`
	Ports   []int    `json:"allowed_ports"`
}

// Secret is one that a pack asks for or may read.
type Secret struct {
	Key       string `json:"key"`
	Requested bool   `json:"requested"`
	Set       *bool  `json:"set"`     // null where it is not known
	Granted   *bool  `json:"granted"` // likewise
}

// Handler is a handler that the pack brings along.
type Handler struct {
	Slug         string  `json:"slug"`
	HandlerID    string  `json:"handler_id"`
	PermissionID string  `json:"permission_id"`
	State        string  `json:"state"`
	CandidateKey string  `json:"candidate_key"`
	LastError    *string `json:"last_error"`
}

// Lock is the pack's requirements.lock.
type Lock struct {
	State        string  `json:"state"`
	CandidateKey string  `json:"candidate_key"`
	Path         string  `json:"requirements_relpath"`
	Packages     int     `json:"packages"`
	LastError    *string `json:"last_error"`
}

// Step is something that is left to do.
type Step struct {
	What string `json:"what"`
	Call
}

// Pack collects it. An unknown pack is approval's not-found fault; without approval there is no answer.
func (v *Views) Pack(ctx context.Context, id string) (Pack, error) {
	query := "?pack_id=" + url.QueryEscape(id)
	known, err := get[[]summary](ctx, v, approval, "/internal/packs/overview"+query)
	if err != nil {
		return Pack{}, err
	}
	if len(known) != 1 {
		return Pack{}, fmt.Errorf("ask approval for pack %s: %d of them", id, len(known))
	}
	var (
		containers []jsontext.Value
		network    networkGrants
		refused    denials
		keys       secretKeys
		grants     capabilityGrants
		handlers   handlerRequests
		locks      lockRequests
	)
	s := begin(ctx)
	fetch(s, v, "container", broker, "/api/containers", &containers)
	fetch(s, v, "network", egress, "/api/network/list", &network)
	fetch(s, v, "denials", egress, "/api/network/denials"+query, &refused)
	fetch(s, v, "secrets", secrets, "/api/secrets", &keys)
	fetch(s, v, "grants", broker, "/api/capability/grants?principal_id="+url.QueryEscape(id), &grants)
	fetch(s, v, "handlers", broker, "/api/capability/requests", &handlers)
	fetch(s, v, "lock", pip, "/api/pip/requests", &locks)
	failed := s.end()

	about := known[0]
	p := Pack{PackID: about.PackID, Status: about.Status, MayRun: about.MayRun, Identity: about.Identity, Version: about.Version,
		Description: about.Description, CreatedAt: about.CreatedAt, ApprovedAt: about.ApprovedAt, Digest: about.Digest, Error: about.Error,
		Container: jsontext.Value("null"), Errors: failed}
	lacks := func(section string) bool { _, ok := failed[section]; return ok }
	if !lacks("container") {
		if p.Container, err = containerOf(containers, id); err != nil {
			return Pack{}, err
		}
	}
	if !lacks("network") {
		if p.Network, err = networkOf(about, network.Grants[id]); err != nil {
			return Pack{}, err
		}
	}
	if !lacks("denials") {
		p.Denials24h = recent(refused.Denials, time.Now().Add(-day))
	}
	p.Secrets = secretsOf(about, keys, !lacks("secrets"), grants.keys(id), !lacks("grants"))
	p.Handlers = handlersOf(handlers, id)
	p.Lock = lockOf(locks, id)
	p.Next = p.steps(lacks)
	return p, nil
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

func networkOf(about summary, granted jsontext.Value) (*Network, error) {
	n := &Network{Requested: Destinations{orEmpty(about.Requested.Domains), orEmpty(about.Requested.Ports)}, Granted: granted,
		Missing: Destinations{[]string{}, []int{}}}
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

func recent(all []denial, since time.Time) *int64 {
	var n int64
	for _, d := range all {
		if d.LastSeen.After(since) {
			n += d.Count
		}
	}
	return &n
}

func secretsOf(about summary, keys secretKeys, keysKnown bool, granted []string, grantsKnown bool) []Secret {
	set := keys.set()
	all := []Secret{}
	add := func(key string, requested bool) {
		s := Secret{Key: key, Requested: requested}
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

func handlersOf(all handlerRequests, id string) []Handler {
	out := []Handler{}
	for _, h := range all.Items {
		if c := h.Candidate; c.PackID == id {
			out = append(out, Handler{c.Slug, c.HandlerID, c.Permission, h.Status, h.Key, h.LastError})
		}
	}
	return out
}

func lockOf(all lockRequests, id string) *Lock {
	var newest *lockRequest
	for i, l := range all.Items {
		if l.PackID == id && (newest == nil || l.CreatedAt.After(newest.CreatedAt)) {
			newest = &all.Items[i]
		}
	}
	if newest == nil {
		return nil
	}
	return &Lock{newest.Status, newest.Key, newest.Path, len(newest.Requirements), newest.LastError}
}

// steps are what is left until the pack runs with all that it asks for. A section that lacks its answer has none.
func (p *Pack) steps(lacks func(section string) bool) []Step {
	steps := []Step{}
	add := func(what string, call Call) { steps = append(steps, Step{what, call}) }
	base := "/api/packs/" + url.PathEscape(p.PackID)
	if p.Status.Undecided() {
		add("review", Call{Method: "GET", Path: base + "/review"})
		add("approve", post(base+"/approve", nil))
	}
	for _, h := range p.Handlers {
		if h.State == "pending" {
			add("approve handler "+h.Slug, post("/api/capability/requests/"+url.PathEscape(h.CandidateKey)+"/approve", nil))
		}
	}
	if p.Lock != nil && p.Lock.State == "pending" {
		add("approve lock "+p.Lock.Path, post("/api/pip/requests/"+url.PathEscape(p.Lock.CandidateKey)+"/approve", map[string]any{"allow_sdist": false}))
	}
	if n := p.Network; n != nil && len(n.Missing.Domains)+len(n.Missing.Ports) > 0 {
		add("grant network", post("/api/network/grant", p.wanted()))
	}
	var readable []string
	for _, s := range p.Secrets {
		if s.Requested && s.Set != nil && !*s.Set {
			add("set secret "+s.Key, post("/api/secrets/set", map[string]any{"key": s.Key, "value": nil}))
		}
		if s.Granted != nil && (*s.Granted || s.Requested) {
			readable = append(readable, s.Key)
		}
	}
	if slices.ContainsFunc(p.Secrets, func(s Secret) bool { return s.Granted != nil && s.Requested && !*s.Granted }) {
		add("grant secrets", post("/api/capability/grants/grant", map[string]any{
			"principal_id": p.PackID, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": readable}}))
	}
	if p.MayRun && p.Status != pack.StatusRunning && !lacks("container") {
		add("start", post("/api/containers/"+url.PathEscape(p.PackID)+"/start", nil))
	}
	return steps
}

// wanted is a grant of what is granted and what is missing. A grant that is posted replaces the one before, so that rules and an
// end must be in it, too.
func (p *Pack) wanted() map[string]any {
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

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
