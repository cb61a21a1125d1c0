package overview

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/pack"
)

const (
	maxItems     = 1000 // of a pending list; the newest are shown
	maxProposals = 100  // packs whose refusals are looked at, those with the newest
	atOnce       = 8    // of these
)

// The kinds of what waits.
const (
	kindPack    = "pack"
	kindHandler = "handler"
	kindLock    = "lock"
	kindNetwork = "network"
	kindSecret  = "secret"
)

// Item is one thing that waits for a person.
type Item struct {
	Kind   string    `json:"kind"` // pack, handler, lock, network, secret
	PackID string    `json:"pack_id"`
	What   string    `json:"what"`
	Since  time.Time `json:"since"`
	Count  int64     `json:"count,omitzero"` // refused requests, of kind network
	Risk   string    `json:"risk,omitzero"`
	Review *Call     `json:"review,omitzero"` // shows what is decided about
	Decide Call      `json:"decide"`
}

// Pending is what waits, the newest first.
type Pending struct {
	Items   []Item            `json:"items"`
	Count   int               `json:"count"`
	Omitted int               `json:"omitted,omitzero"` // older ones, beyond 1000
	Errors  map[string]string `json:"errors"`           // sections that could not be asked: packs, handlers, locks, network, secrets
}

// Pending asks every owner what waits.
func (v *Views) Pending(ctx context.Context) Pending {
	var (
		mu    sync.Mutex
		items = []Item{}
		packs []summary
		keys  secretKeys
	)
	keep := func(found ...Item) {
		mu.Lock()
		defer mu.Unlock()
		items = append(items, found...)
	}
	s := begin(ctx)
	fetch(s, v, "packs", approval, "/internal/packs/overview", &packs)
	fetch(s, v, "secrets", secrets, "/api/secrets", &keys)
	s.add("handlers", func(ctx context.Context) error {
		answer, err := get[handlerRequests](ctx, v, broker, "/api/capability/requests?status=pending")
		for _, h := range answer.Items {
			keep(h.item())
		}
		return err
	})
	s.add("locks", func(ctx context.Context) error {
		answer, err := get[lockRequests](ctx, v, pip, "/api/pip/requests?status=pending")
		for _, l := range answer.Items {
			keep(l.item())
		}
		return err
	})
	s.add("network", func(ctx context.Context) error {
		found, err := v.refused(ctx)
		keep(found...)
		return err
	})
	failed := s.end()
	for _, p := range packs {
		if p.Undecided {
			keep(p.item())
		}
	}
	_, noPacks := failed["packs"]
	_, noKeys := failed["secrets"]
	switch {
	case noKeys:
	case noPacks:
		failed["secrets"] = "what packs ask for is not known: " + failed["packs"]
	default:
		keep(unset(packs, keys.set())...)
	}
	return newest(items, failed)
}

func newest(items []Item, failed map[string]string) Pending {
	slices.SortStableFunc(items, func(a, b Item) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What))
	})
	answer := Pending{Items: items, Count: len(items), Errors: failed}
	if len(items) > maxItems {
		answer.Items, answer.Omitted = items[:maxItems], len(items)-maxItems
	}
	return answer
}

func (p summary) item() Item {
	base := "/api/packs/" + url.PathEscape(p.PackID)
	item := Item{Kind: kindPack, PackID: p.PackID, What: strings.TrimSpace("new: " + p.Version), Since: p.UpdatedAt,
		Review: &Call{Method: "GET", Path: base + "/review"}, Decide: post(base+"/approve", nil)}
	if p.ApprovedAt != nil {
		item.What = "changed since it was approved"
		if p.Error != nil {
			item.Risk = *p.Error
		}
	}
	return item
}

func (h handlerRequest) item() Item {
	c := h.Candidate
	risk := slices.Clone(h.Effects)
	if c.Risk != "" {
		risk = append([]string{c.Risk}, risk...)
	}
	return Item{Kind: kindHandler, PackID: c.PackID, What: fmt.Sprintf("%s serves %s", c.Slug, c.Permission), Since: h.At,
		Risk: strings.Join(risk, "; "), Decide: post("/api/capability/requests/"+url.PathEscape(h.Key)+"/approve", nil)}
}

func (l lockRequest) item() Item {
	return Item{Kind: kindLock, PackID: l.PackID, What: fmt.Sprintf("%s: %d packages", l.Path, len(l.Requirements)), Since: l.UpdatedAt,
		Decide: post("/api/pip/requests/"+url.PathEscape(l.Key)+"/approve", map[string]any{"allow_sdist": false})}
}

// unset are the secrets that packs ask for and that are not set, once a pack. A blocked pack is asked nothing of.
func unset(packs []summary, set map[string]bool) []Item {
	var items []Item
	for _, p := range packs {
		if p.Status == pack.StatusBlocked {
			continue
		}
		for _, key := range p.Requested.Secrets {
			if !set[key] {
				items = append(items, Item{Kind: kindSecret, PackID: p.PackID, What: key + " is not set", Since: p.UpdatedAt,
					Decide: post("/api/secrets/set", map[string]any{"key": key, "value": nil})})
			}
		}
	}
	return items
}

// refused are the destinations that packs were refused and that a grant would open. What was granted since is not among them:
// egress-proxy's proposal then adds nothing to the grant.
func (v *Views) refused(ctx context.Context) ([]Item, error) {
	answer, err := get[denials](ctx, v, egress, "/api/network/denials")
	if err != nil {
		return nil, err
	}
	byPack := map[string][]denial{}
	var order []string // those with the newest first, as they are answered
	for _, d := range answer.Denials {
		if !d.grantable() {
			continue
		}
		if byPack[d.PackID] == nil {
			order = append(order, d.PackID)
		}
		byPack[d.PackID] = append(byPack[d.PackID], d)
	}
	if len(order) == 0 {
		return nil, nil
	}
	grants, err := get[networkGrants](ctx, v, egress, "/api/network/list")
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		items []Item
		first error
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
	)
	for _, id := range order[:min(len(order), maxProposals)] {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found, err := v.proposed(ctx, id, grants.Grants[id], byPack[id])
			mu.Lock()
			defer mu.Unlock()
			items = append(items, found...)
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return items, first
}

// proposed are the refusals of one pack that the grant of now doesn't cover, with the grant that would.
func (v *Views) proposed(ctx context.Context, id string, current jsontext.Value, refused []denial) ([]Item, error) {
	proposal, err := get[jsontext.Value](ctx, v, egress, "/api/network/proposal?pack_id="+url.QueryEscape(id))
	if err != nil {
		return nil, err
	}
	var now, then grant
	if len(current) > 0 {
		if err := json.Unmarshal(current, &now); err != nil {
			return nil, err
		}
	}
	if !now.Enabled {
		now = grant{}
	}
	if err := json.Unmarshal(proposal, &then); err != nil {
		return nil, err
	}
	if same(now, then) {
		return nil, nil
	}
	byPlace := map[string]*Item{}
	var items []*Item
	for _, d := range refused {
		if d.Reason == "grant_denied" && (now.allowsDomain(d.Host) && now.allowsPort(d.Port) || !then.allowsDomain(d.Host) || !then.allowsPort(d.Port)) {
			continue // granted since, or nothing that a grant opens
		}
		what := fmt.Sprintf("%s:%d", d.Host, d.Port)
		item := byPlace[what]
		if item == nil {
			item = &Item{Kind: kindNetwork, PackID: id, What: what, Since: d.FirstSeen, Decide: post("/api/network/grant", proposal)}
			if d.Port == 80 {
				item.Risk = "not encrypted"
			}
			byPlace[what], items = item, append(items, item)
		}
		item.Count += d.Count
		if d.FirstSeen.Before(item.Since) {
			item.Since = d.FirstSeen
		}
	}
	out := make([]Item, len(items))
	for i, item := range items {
		out[i] = *item
	}
	return out, nil
}

// same says whether a proposal adds nothing to a grant.
func same(now, then grant) bool {
	for _, d := range then.AllowedDomains {
		if !slices.Contains(now.AllowedDomains, d) {
			return false
		}
	}
	for _, p := range then.AllowedPorts {
		if !slices.Contains(now.AllowedPorts, p) {
			return false
		}
	}
	return now.AllowTunnel == then.AllowTunnel && bytes.Equal(canonical(now.Rules), canonical(then.Rules))
}

// canonical is a list of rules for a comparison; an absent one is an empty one.
func canonical(rules jsontext.Value) []byte {
	if len(rules) == 0 || rules.Kind() == 'n' {
		return []byte("[]")
	}
	rules = rules.Clone()
	if err := rules.Canonicalize(); err != nil {
		return rules
	}
	return rules
}
