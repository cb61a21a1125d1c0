package overview

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/pack"
)

// What the owners answer, as far as it is read here.

type summary struct {
	PackID      string      `json:"pack_id"`
	Status      pack.Status `json:"status"`
	Undecided   bool        `json:"undecided"`
	MayRun      bool        `json:"may_run"`
	Identity    string      `json:"pack_identity"`
	Version     string      `json:"version"`
	Description string      `json:"description"`
	CreatedAt   time.Time   `json:"created_at"`
	UpdatedAt   time.Time   `json:"updated_at"`
	ApprovedAt  *time.Time  `json:"approved_at"`
	Digest      *string     `json:"digest"`
	Error       *string     `json:"error"`
	Requested   struct {
		Secrets []string `json:"secrets"`
		Domains []string `json:"allowed_domains"`
		Ports   []int    `json:"allowed_ports"`
	} `json:"permissions_requested"`
}

type handlerRequests struct {
	Items []handlerRequest `json:"items"`
}

type handlerRequest struct {
	Key       string    `json:"candidate_key"`
	Status    string    `json:"status"`
	At        time.Time `json:"last_event_ts"`
	Candidate struct {
		PackID     string `json:"pack_id"`
		Slug       string `json:"slug"`
		HandlerID  string `json:"handler_id"`
		Permission string `json:"permission_id"`
		Risk       string `json:"risk"`
	} `json:"candidate"`
	InstalledTo *string  `json:"installed_to"`
	LastError   *string  `json:"last_error"`
	Effects     []string `json:"effects"`
}

type lockRequests struct {
	Items []lockRequest `json:"items"`
}

type lockRequest struct {
	Key          string           `json:"candidate_key"`
	PackID       string           `json:"pack_id"`
	Path         string           `json:"requirements_relpath"`
	Requirements []jsontext.Value `json:"requirements"`
	Status       string           `json:"status"`
	CreatedAt    time.Time        `json:"created_at"`
	UpdatedAt    time.Time        `json:"updated_at"`
	LastError    *string          `json:"last_error"`
}

type denials struct {
	Denials []denial `json:"denials"`
}

type denial struct {
	PackID    string    `json:"pack_id"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	Reason    string    `json:"reason"`
	Count     int64     `json:"count"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

// grantable says whether another grant would allow what was refused.
func (d denial) grantable() bool { return d.Reason == "grant_denied" || d.Reason == "rule_denied" }

type networkGrants struct {
	Grants map[string]jsontext.Value `json:"grants"`
}

// grant is what a grant and a proposal have in common.
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

type secretKeys struct {
	Keys []struct {
		Key    string `json:"key"`
		Exists bool   `json:"exists"`
	} `json:"keys"`
}

func (s secretKeys) set() map[string]bool {
	keys := map[string]bool{}
	for _, k := range s.Keys {
		keys[k.Key] = k.Exists
	}
	return keys
}

type capabilityGrants struct {
	Grants map[string]struct {
		Permissions map[string]struct {
			Enabled bool `json:"enabled"`
			Config  struct {
				AllowedKeys []string `json:"allowed_keys"`
			} `json:"config"`
		} `json:"permissions"`
	} `json:"grants"`
}

// keys are the secrets that a pack may read.
func (c capabilityGrants) keys(packID string) []string {
	if p := c.Grants[packID].Permissions["secrets.get"]; p.Enabled {
		return p.Config.AllowedKeys
	}
	return nil
}
