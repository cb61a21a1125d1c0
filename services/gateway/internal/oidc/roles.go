package oidc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/access"
)

// everybody is the group that each person is in whom the issuer signs in.
const everybody = "*"

// Roles map the issuer's groups to roles.
type Roles map[string]access.Role

// ParseRoles reads RUMI_OIDC_ROLES: "rumi-admins=admin,ops=operator,*=viewer". A group may hold an equals sign, but no comma.
func ParseRoles(text string) (Roles, error) {
	roles := Roles{}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		at := strings.LastIndexByte(entry, '=')
		if at < 1 {
			return nil, fmt.Errorf("RUMI_OIDC_ROLES: %q: want group=role, such as rumi-admins=admin,ops=operator,*=viewer", entry)
		}
		group, role := strings.TrimSpace(entry[:at]), access.Role(strings.TrimSpace(entry[at+1:]))
		switch _, twice := roles[group]; {
		case !role.Known():
			return nil, fmt.Errorf("RUMI_OIDC_ROLES: %q: %q is no role (known: %s)", entry, role, join(access.Roles()))
		case group == "":
			return nil, fmt.Errorf("RUMI_OIDC_ROLES: %q: the group is missing", entry)
		case twice:
			return nil, fmt.Errorf("RUMI_OIDC_ROLES: the group %q stands twice", group)
		}
		roles[group] = role
	}
	return roles, nil
}

func join(roles []access.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// of is the highest role of a person in groups; "" for none. An issuer's own group of the name * gives nothing that everybody hasn't.
func (r Roles) of(groups []string) access.Role {
	best := r[everybody]
	for _, g := range groups {
		if role := r[g]; role.Known() && !best.Covers(role) {
			best = role
		}
	}
	return best
}

// errGroups is the error for a claim that isn't a list of texts.
var errGroups = errors.New("the claim of groups is no list of texts")

// groupsIn reads the claim of groups. A name with dots is looked for as it is (https://example.com/groups), then as a way through objects
// (realm_access.roles). A missing claim is no group.
func groupsIn(claims map[string]any, name string) ([]string, error) {
	value, there := claims[name]
	if !there {
		value = walk(claims, strings.Split(name, "."))
	}
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		groups := make([]string, 0, len(v))
		for _, one := range v {
			group, ok := one.(string)
			if !ok {
				return nil, errGroups
			}
			groups = append(groups, group)
		}
		slices.Sort(groups)
		return slices.Compact(groups), nil
	}
	return nil, errGroups
}

func walk(claims map[string]any, way []string) any {
	for i, step := range way {
		if i == len(way)-1 {
			return claims[step]
		}
		inner, ok := claims[step].(map[string]any)
		if !ok {
			return nil
		}
		claims = inner
	}
	return nil
}
