package overview

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/api/secrets"
)

// networkGrants is an egress.ListResponse whose grants are passed on as they came.
type networkGrants struct {
	Grants map[string]jsontext.Value `json:"grants"`
}

// grant is what an egress.Grant and an egress.Proposal have in common.
type grant struct {
	PackID         string         `json:"pack_id"`
	Enabled        bool           `json:"enabled"`
	AllowedDomains []string       `json:"allowed_domains"`
	AllowedPorts   []int          `json:"allowed_ports"`
	Rules          jsontext.Value `json:"rules"`
	AllowTunnel    bool           `json:"allow_tunnel"`
}

// allowsDomain says whether a domain that a pack asks for, a pattern perhaps, lies within the granted ones.
func (g *grant) allowsDomain(domain string) bool {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	for _, allowed := range g.AllowedDomains {
		allowed = strings.ToLower(allowed)
		if allowed == "*" || allowed == domain {
			return true
		}
		if suffix, ok := strings.CutPrefix(allowed, "*"); ok && strings.HasSuffix(domain, suffix) && len(domain) > len(suffix) {
			return true
		}
	}
	return false
}

func (g *grant) allowsPort(port int) bool {
	for _, allowed := range g.AllowedPorts {
		if allowed == 0 || allowed == port {
			return true
		}
	}
	return false
}

// allows says whether the grant opens the destination that was refused. Rules are not looked at.
func (g *grant) allows(d egress.Denial) bool { return g.allowsDomain(d.Host) && g.allowsPort(d.Port) }

// grantable says whether another grant would allow what was refused.
func grantable(d egress.Denial) bool { return d.Reason == "grant_denied" || d.Reason == "rule_denied" }

// isSet says of every key whether it has a value.
func isSet(s secrets.ListResponse) map[string]bool {
	keys := map[string]bool{}
	for _, k := range s.Keys {
		keys[k.Key] = k.Exists
	}
	return keys
}

// readable are the secrets that a pack was granted.
func readable(g broker.GrantsResponse, packID string) []string {
	p := g.Grants[packID].Permissions[secretsGet]
	if !p.Enabled {
		return nil
	}
	var config struct {
		AllowedKeys []string `json:"allowed_keys"`
	}
	if err := json.Unmarshal(p.Config, &config); err != nil {
		return nil // the broker keeps no such config
	}
	return config.AllowedKeys
}
