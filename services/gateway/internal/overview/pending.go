package overview

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

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
	"github.com/rumi-ai/rumi/libs/pack"
)

const (
	maxItems      = 1000 // of a pending list; the newest are shown
	maxProposals  = 100  // packs whose refusals are compared with a proposal, those with the newest refusals
	maxConcurrent = 8    // of these
)

// The kinds of what waits.
const (
	kindPack    = "pack"
	kindHandler = "handler"
	kindLock    = "lock"
	kindNetwork = "network"
	kindSecret  = "secret"
)

// Pending asks every owner what waits.
func (v *Views) Pending(ctx context.Context) api.Pending {
	var (
		mu    sync.Mutex
		items = []api.Item{}
		packs []approval.Summary
		keys  secrets.ListResponse
	)
	keep := func(found ...api.Item) {
		mu.Lock()
		defer mu.Unlock()
		items = append(items, found...)
	}
	s := newSections(ctx)
	fetch(s, v, "packs", approval.Overview, approval.OverviewRequest{}, &packs)
	fetch(s, v, "secrets", secrets.List, struct{}{}, &keys)
	s.add("handlers", func(ctx context.Context) error {
		answer, err := get[wire.ListResponse[broker.HandlerItem]](ctx, v, broker.Candidates.List, wire.ListRequest{})
		for _, h := range answer.Items {
			if h.Status == pending || h.Confirmation != nil {
				keep(handlerItem(h))
			}
		}
		return err
	})
	s.add("locks", func(ctx context.Context) error {
		answer, err := get[wire.ListResponse[pip.LockItem]](ctx, v, pip.Candidates.List, wire.ListRequest{})
		for _, l := range answer.Items {
			if l.Status == pending || l.Confirmation != nil {
				keep(lockItem(l))
			}
		}
		return err
	})
	s.add("network", func(ctx context.Context) error {
		found, err := v.refusedDestinations(ctx)
		keep(found...)
		return err
	})
	failed := s.wait()
	for _, p := range packs {
		if p.Undecided || p.Confirmation != nil {
			keep(packItem(p))
		}
	}
	_, noPacks := failed["packs"]
	_, noKeys := failed["secrets"]
	switch {
	case noKeys:
	case noPacks:
		failed["secrets"] = "what packs ask for is not known: " + failed["packs"]
	default:
		keep(unsetSecrets(packs, isSet(keys))...)
	}
	return newestFirst(items, failed)
}

func newestFirst(items []api.Item, failed map[string]string) api.Pending {
	slices.SortStableFunc(items, func(a, b api.Item) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What))
	})
	answer := api.Pending{Items: items, Count: len(items), Errors: failed}
	if len(items) > maxItems {
		answer.Items, answer.Omitted = items[:maxItems], len(items)-maxItems
	}
	return answer
}

func packItem(p approval.Summary) api.Item {
	review := call(approval.Review, approval.ReviewRequest{PackID: p.PackID}, nil)
	item := api.Item{Kind: kindPack, PackID: p.PackID, What: strings.TrimSpace("new: " + p.Version), Since: p.UpdatedAt,
		Review: &review, Decide: approvePack(p.PackID, p.Confirmation), Confirmation: p.Confirmation}
	if p.ApprovedAt != nil {
		item.What = "changed since it was approved"
		if p.Error != nil {
			item.Risk = *p.Error
		}
	}
	return item
}

// approvePack is the call that approves a pack. Where it confirms what somebody asked for, it names that digest: then it can't begin a request
// for something else.
func approvePack(id string, asked *confirm.Confirmation) api.Call {
	var body any
	if asked != nil {
		body = map[string]any{"digest": asked.Digest}
	}
	return call(approval.Approve, approval.ApproveRequest{PackID: id}, body)
}

// approveLock is the call that approves a lock, with the options that somebody asked for.
func approveLock(key string, asked *confirm.Confirmation) api.Call {
	body := map[string]any{"allow_sdist": false}
	if asked != nil {
		for name, value := range asked.Options {
			body[name] = value
		}
		body["allow_sdist"] = asked.Options["allow_sdist"] == "true"
	}
	return call(pip.Approve, pip.ApproveRequest{Key: key}, body)
}

func handlerItem(h broker.HandlerItem) api.Item {
	c := h.Candidate
	risk := slices.Clone(h.Effects)
	if c.Risk != "" {
		risk = append([]string{c.Risk}, risk...)
	}
	return api.Item{Kind: kindHandler, PackID: c.PackID, What: fmt.Sprintf("%s serves %s", c.Slug, c.PermissionID), Since: h.LastEventTS,
		Risk: strings.Join(risk, "; "), Decide: call(broker.Approve, broker.ApproveRequest{Key: h.Key}, nil),
		Confirmation: h.Confirmation}
}

func lockItem(l pip.LockItem) api.Item {
	return api.Item{Kind: kindLock, PackID: l.PackID, What: fmt.Sprintf("%s: %d packages", l.Relpath, len(l.Requirements)), Since: l.UpdatedAt,
		Decide: approveLock(l.Key, l.Confirmation), Confirmation: l.Confirmation}
}

// unsetSecrets are the secrets that packs ask for and that are not set, once for each pack. A blocked pack is left out: nothing is to be
// done for it.
func unsetSecrets(packs []approval.Summary, set map[string]bool) []api.Item {
	var items []api.Item
	for _, p := range packs {
		if p.Status == pack.StatusBlocked {
			continue
		}
		for _, key := range p.Requested.Secrets {
			if !set[key] {
				items = append(items, api.Item{Kind: kindSecret, PackID: p.PackID, What: key + " is not set", Since: p.UpdatedAt,
					Decide: call(secrets.Set, secrets.SetRequest{}, map[string]any{"key": key, "value": nil})})
			}
		}
	}
	return items
}

// refusedDestinations are the destinations that packs were refused and that a grant would open. What was granted since is not among them:
// egress-proxy's proposal then adds nothing to the grant.
func (v *Views) refusedDestinations(ctx context.Context) ([]api.Item, error) {
	answer, err := get[egress.DenialsResponse](ctx, v, egress.ListDenials, egress.DenialsRequest{})
	if err != nil {
		return nil, err
	}
	byPack := map[string][]egress.Denial{}
	var order []string // those with the newest first, as they are answered
	for _, d := range answer.Denials {
		if !grantable(d) {
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
	grants, err := get[networkGrants](ctx, v, egress.List, struct{}{})
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		items []api.Item
		first error
		wg    sync.WaitGroup
		slots = make(chan struct{}, maxConcurrent)
	)
	for _, id := range order[:min(len(order), maxProposals)] {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found, err := v.undecided(ctx, id, grants.Grants[id], byPack[id])
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

// undecided are the refusals of one pack that its current grant doesn't cover, with the grant that would.
func (v *Views) undecided(ctx context.Context, id string, current jsontext.Value, refused []egress.Denial) ([]api.Item, error) {
	proposal, err := get[jsontext.Value](ctx, v, egress.Propose, egress.ProposalRequest{PackID: id})
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
	if addsNothing(now, then) {
		return nil, nil
	}
	return byDestination(id, slices.DeleteFunc(refused, func(d egress.Denial) bool {
		return d.Reason == "grant_denied" && (now.allows(d) || !then.allows(d)) // granted since, or nothing that a grant opens
	}), proposal), nil
}

// byDestination makes one item of all refusals of a host and port.
func byDestination(id string, refused []egress.Denial, proposal jsontext.Value) []api.Item {
	var items []api.Item
	index := map[string]int{}
	for _, d := range refused {
		what := fmt.Sprintf("%s:%d", d.Host, d.Port)
		i, known := index[what]
		if !known {
			i = len(items)
			index[what] = i
			items = append(items, api.Item{Kind: kindNetwork, PackID: id, What: what, Since: d.FirstSeen, Decide: call(egress.PostGrant, egress.GrantRequest{}, proposal)})
			if d.Port == 80 {
				items[i].Risk = "not encrypted"
			}
		}
		items[i].Count += d.Count
		if d.FirstSeen.Before(items[i].Since) {
			items[i].Since = d.FirstSeen
		}
	}
	return items
}

// addsNothing says whether a proposal adds nothing to a grant.
func addsNothing(now, then grant) bool {
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
