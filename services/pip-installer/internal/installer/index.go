package installer

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Indexes are the package indexes that may be used. The zero value allows pip's own default only.
type Indexes struct{ urls []string }

// hostName is a DNS name or an IPv6 address in brackets. What the name resolves to is checked by the builder.
var hostName = regexp.MustCompile(`\A(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])\z`)

// ParseIndexes reads RUMI_PIP_INDEX_URLS. The first index is the default.
func ParseIndexes(list []string) (Indexes, error) {
	var found Indexes
	for _, text := range list {
		u, err := canonicalIndex(strings.TrimSpace(text))
		if err != nil {
			return Indexes{}, fmt.Errorf("RUMI_PIP_INDEX_URLS: %w", err)
		}
		found.urls = append(found.urls, u)
	}
	return found, nil
}

// Choose returns the index for a request's index_url; "" is pip's own default. An index that isn't allowed is a fault.
func (i Indexes) Choose(asked string) (string, error) {
	if asked == "" {
		if len(i.urls) == 0 {
			return "", nil
		}
		return i.urls[0], nil
	}
	u, err := canonicalIndex(asked)
	if err != nil {
		return "", fault.Invalid("Invalid index_url: %s", err).With("invalid_index_url")
	}
	if !slices.Contains(i.urls, u) {
		return "", fault.Invalid("index_url is not allowed; RUMI_PIP_INDEX_URLS lists those that are").With("index_not_allowed")
	}
	return u, nil
}

// canonicalIndex returns the same text for the same index. Its errors don't repeat the URL, which may have a password in it.
func canonicalIndex(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return "", fmt.Errorf("it is not a URL")
	case u.Scheme != "https":
		return "", fmt.Errorf("it must begin with https://")
	case u.User != nil:
		return "", fmt.Errorf("it must not hold a user or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return "", fmt.Errorf("it must not have a query or fragment")
	}
	host := strings.TrimSuffix(strings.ToLower(u.Host), ":443")
	name, port, hasPort := splitPort(host)
	if !hostName.MatchString(name) || hasPort && port == "" {
		return "", fmt.Errorf("its host is not valid")
	}
	u.Host = host
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u.String(), nil
}

// splitPort splits the port off a host; the name of an IPv6 address keeps its brackets. port is "" where it is empty or missing.
func splitPort(host string) (name, port string, hasPort bool) {
	if !strings.HasPrefix(host, "[") {
		return strings.Cut(host, ":")
	}
	if end := strings.LastIndex(host, "]:"); end >= 0 {
		return host[:end+1], host[end+2:], true
	}
	return host, "", false
}

// ParseCIDRs reads RUMI_PIP_ALLOW_CIDRS.
func ParseCIDRs(list []string) ([]string, error) {
	var found []string
	for _, text := range list {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("RUMI_PIP_ALLOW_CIDRS: %q: want a range, such as 10.1.0.0/16: %w", text, err)
		}
		found = append(found, prefix.Masked().String())
	}
	return found, nil
}
