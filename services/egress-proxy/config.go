package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
)

// config is the settings of egress-proxy alone. docs/settings.md explains them.
type config struct {
	SockDir    string     `env:"RUMI_EGRESS_SOCK_DIR" envDefault:"/run/rumi/egress/packs"`
	SockGID    int        `env:"RUMI_EGRESS_SOCKET_GID" envDefault:"-1"` // unset: the service's own group
	SockMode   socketMode `env:"RUMI_EGRESS_SOCKET_MODE" envDefault:"0660"`
	RateLimit  rateLimit  `env:"RUMI_EGRESS_RATE_LIMIT" envDefault:"600"` // requests a minute of one pack; 0 is no limit
	DailyBytes dailyBytes `env:"RUMI_EGRESS_DAILY_BYTES" envDefault:"0"`  // bytes that one pack may send in a UTC day; 0 is no limit
	Refusals   refusals   `env:"RUMI_AUDIT_REFUSALS" envDefault:"100000"` // refusals of one pack a day that have audit entries of their own; 0 is no limit
	SpanLimit  spanLimit  `env:"RUMI_EGRESS_SPAN_LIMIT" envDefault:"100"` // spans a second that are taken of one pack; 0 takes none
	AllowCIDRs cidrs      `env:"RUMI_EGRESS_ALLOW_CIDRS"`                 // internal ranges that grants may open
	CAFile     string     `env:"RUMI_EGRESS_CA_FILE"`                     // PEM; in addition to the system's authorities
	DNS        dnsServers `env:"RUMI_EGRESS_DNS"`                         // servers asked for packs' names; unset: those of the system
	OIDCIssuer string     `env:"RUMI_OIDC_ISSUER"`                        // https://…, whose keys the gateway may ask for
}

// socketMode is the mode of packs' sockets: 0660, 0600, or 0666 for every process that can enter their folder.
type socketMode fs.FileMode

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *socketMode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n != 0o600 && n != 0o660 && n != 0o666 {
		return errors.New("want 0660, 0666 or 0600")
	}
	*m = socketMode(n)
	return nil
}

func (m socketMode) relaxed() bool { return m&0o007 != 0 }

type rateLimit int

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *rateLimit) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return errors.New("want requests a minute, such as 600 (0 is off)")
	}
	*l = rateLimit(n)
	return nil
}

type spanLimit int

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *spanLimit) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return errors.New("want spans a second, such as 100 (0 takes none)")
	}
	*l = spanLimit(n)
	return nil
}

type refusals int

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *refusals) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return errors.New("want entries a day, such as 100000 (0 is any number)")
	}
	*r = refusals(n)
	return nil
}

type dailyBytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *dailyBytes) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 63)
	if err != nil {
		return errors.New("want bytes a day, such as 1000000000 (0 is off)")
	}
	*b = dailyBytes(n)
	return nil
}

type cidrs struct{ policy *address.Policy }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *cidrs) UnmarshalText(text []byte) error {
	opened, err := address.ParseOpened(string(text))
	c.policy = address.NewPolicy(opened)
	return err
}

// dnsServers is a list of host:port.
type dnsServers []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *dnsServers) UnmarshalText(text []byte) error {
	for server := range strings.SplitSeq(string(text), ",") {
		server = strings.TrimSpace(server)
		if server == "" {
			continue
		}
		host, port := strings.TrimSuffix(strings.TrimPrefix(server, "["), "]"), "53"
		_, err := netip.ParseAddr(host)
		if h, p, split := net.SplitHostPort(server); err != nil && split == nil {
			host, port = h, p
			_, err = netip.ParseAddr(host)
		}
		if err != nil {
			var named hostname.Host
			if named, err = hostname.Parse(host); named.Numeric {
				err = errors.New("a number is no name")
			}
		}
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
			return fmt.Errorf("%q: want an address or a name, with :port or without, such as 192.0.2.1 or dns.example.com:53", server)
		}
		*d = append(*d, net.JoinHostPort(host, port))
	}
	return nil
}

// addresses makes the policy of RUMI_EGRESS_ALLOW_CIDRS, which denies all internal addresses if that is unset.
func (c config) addresses() *address.Policy {
	if c.AllowCIDRs.policy == nil {
		return address.NewPolicy(nil)
	}
	return c.AllowCIDRs.policy
}
