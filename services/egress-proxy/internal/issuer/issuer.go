// Package issuer fetches what the gateway needs to check the sign-ins of an OpenID Connect issuer: its keys. The gateway
// has no way out of its network, and needs none beyond this.
//
// Which issuer that is stands in the settings of this service (RUMI_OIDC_ISSUER). No caller chooses a URL, so a gateway that was taken over can
// reach nothing by it that packs could not. The issuer's addresses are judged like those of packs' requests: an internal one must be opened by
// RUMI_EGRESS_ALLOW_CIDRS.
package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
)

const (
	fetchTimeout = 10 * time.Second // for both documents
	maxDocument  = 1 << 20          // bytes of each; those of large issuers have 20 KiB

	// minInterval is the least time between two fetches, for all gateways together: a client that makes tokens up must not make us
	// send a request for each.
	minInterval = 5 * time.Second

	discoveryPath = "/.well-known/openid-configuration"
)

// Config has the parts of a Fetcher.
type Config struct {
	Issuer    string // https://…
	Addresses *address.Policy
	Resolver  resolve.Resolver
	TLS       func() *tls.Config // for the next handshake
}

// Fetcher fetches the keys of one issuer. It is safe for concurrent use.
type Fetcher struct {
	cfg    Config
	client *http.Client

	mu   sync.Mutex // held during a fetch: who asks meanwhile gets its result
	at   time.Time  // of the last fetch
	last jsontext.Value
	err  error
}

// New makes a Fetcher. The error says what the setting's value must be.
func New(cfg Config) (*Fetcher, error) {
	if _, err := parseURL(cfg.Issuer); err != nil {
		return nil, fmt.Errorf("RUMI_OIDC_ISSUER=%q: %w", cfg.Issuer, err)
	}
	f := &Fetcher{cfg: cfg}
	f.client = &http.Client{
		Timeout:   fetchTimeout,
		Transport: &http.Transport{DialTLSContext: f.dial, DisableKeepAlives: true, ResponseHeaderTimeout: fetchTimeout, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects; write the URL that it redirects to")
		},
	}
	return f, nil
}

// Name is the issuer's name, which is its URL.
func (f *Fetcher) Name() string { return f.cfg.Issuer }

// parseURL reads the URL of an issuer or of its keys. Whoever can change what comes over plain HTTP can make keys of his own valid.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New("want a URL such as https://login.example.com/realms/main, with https and without user")
	}
	return u, nil
}

// Keys gets the issuer's discovery document, and the JWK set that it names. It answers from the last fetch if that is less than minInterval ago, also where it failed.
func (f *Fetcher) Keys(ctx context.Context) (jsontext.Value, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.at.IsZero() && time.Since(f.at) < minInterval {
		return f.last, f.err
	}
	// A caller that leaves must not make the fetch fail for those who wait.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	f.last, f.err = f.fetch(ctx)
	f.at = time.Now()
	return f.last, f.err
}

func (f *Fetcher) fetch(ctx context.Context) (jsontext.Value, error) {
	discovery, err := f.get(ctx, strings.TrimSuffix(f.cfg.Issuer, "/")+discoveryPath)
	if err != nil {
		return nil, err
	}
	var said struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(discovery, &said); err != nil {
		return nil, fmt.Errorf("%s%s is no JSON object of the expected form", strings.TrimSuffix(f.cfg.Issuer, "/"), discoveryPath)
	}
	if said.Issuer != f.cfg.Issuer { // OpenID Connect Discovery 1.0, section 4.3
		return nil, fmt.Errorf("the issuer calls itself %.200q: write exactly that to RUMI_OIDC_ISSUER, which is %q", said.Issuer, f.cfg.Issuer)
	}
	if _, err := parseURL(said.Keys); err != nil {
		return nil, fmt.Errorf("the issuer's jwks_uri is %.200q: %w", said.Keys, err)
	}
	keys, err := f.get(ctx, said.Keys)
	if err != nil {
		return nil, err
	}
	if set := jsontext.Value(keys); set.Kind() == '{' && set.IsValid() {
		return set, nil
	}
	return nil, fmt.Errorf("%s is no JSON object", said.Keys)
}

// get returns the body of an answer with 200.
func (f *Fetcher) get(ctx context.Context, target string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "rumi")
	response, err := f.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch %s: it answers %d", target, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", target, err)
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("fetch %s: it answers more than %d bytes", target, maxDocument)
	}
	return body, nil
}

// dial connects to an address that the policy allows, and to no other.
func (f *Fetcher) dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	name, addrs, err := f.resolve(ctx, hostport)
	if err != nil {
		return nil, err
	}
	cfg := f.cfg.TLS().Clone()
	cfg.ServerName, cfg.NextProtos = name, []string{"http/1.1"}
	failure := errors.New("no address")
	for _, addr := range addrs {
		var conn net.Conn
		if conn, failure = (&tls.Dialer{Config: cfg}).DialContext(ctx, network, addr.String()); failure == nil {
			return conn, nil
		}
	}
	return nil, failure
}

// resolve returns the addresses of a host, all judged: one that is denied denies the host, as for packs.
func (f *Fetcher) resolve(ctx context.Context, hostport string) (name string, addrs []netip.AddrPort, err error) {
	text, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", nil, fmt.Errorf("%q is no port", port)
	}
	if strings.Contains(text, ":") {
		text = "[" + text + "]"
	}
	host, err := hostname.Parse(text)
	if err != nil || host.Numeric || address.DeniedName(host.Name) {
		return "", nil, fmt.Errorf("%.200q is a host that is never reached", text)
	}
	found := []netip.Addr{host.Addr}
	if !host.Addr.IsValid() {
		answer, err := f.cfg.Resolver.Lookup(ctx, host.Name)
		if err != nil {
			return "", nil, err
		}
		found = answer.Addrs
	}
	for _, a := range found {
		to := netip.AddrPortFrom(a.Unmap(), uint16(number))
		if class, ok := f.cfg.Addresses.Judge(to); !ok {
			return "", nil, fmt.Errorf("%s is an internal address (%s) of %s: name it in %s", a, class, host.Name, address.AllowCIDRs)
		}
		addrs = append(addrs, to)
	}
	return host.Name, addrs, nil
}
