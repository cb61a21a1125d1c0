// Package site keeps web pages from elsewhere from using the API through a browser.
package site

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/text"
)

// loopback are the hosts that are always ours, with any port: a browser that names one talks to its own machine.
var loopback = []string{"localhost", "127.0.0.1", "[::1]"}

// Policy decides which state-changing requests a browser may have been made to send.
type Policy struct {
	hosts  map[string]bool
	origin *http.CrossOriginProtection
}

// New makes a policy that beside the loopback hosts knows hosts ("rumi.example" with any port, or
// "rumi.example:8765") and beside a request's own origin trusts origins ("https://rumi.example").
func New(hosts, origins []string) (*Policy, error) {
	p := &Policy{hosts: map[string]bool{}, origin: http.NewCrossOriginProtection()}
	for _, h := range append(loopback, hosts...) {
		h = strings.TrimSpace(h)
		if h == "" || strings.ContainsAny(h, "/ *?#@") {
			return nil, fmt.Errorf("RUMI_ALLOWED_HOSTS: %q: want a host or host:port, such as rumi.example.com or rumi.example.com:8443", h)
		}
		p.hosts[normalHost(h)] = true
	}
	for _, o := range origins {
		if err := p.origin.AddTrustedOrigin(strings.TrimSpace(o)); err != nil {
			return nil, fmt.Errorf("RUMI_ALLOWED_ORIGINS: %q: want scheme://host or scheme://host:port, such as https://rumi.example.com: %w", o, err)
		}
	}
	return p, nil
}

// Check refuses a state-changing request whose Host isn't ours, or that a page of another origin sent. The first is DNS rebinding: a page
// of an attacker's name, which then resolves to 127.0.0.1, is of the same origin as our API for the browser. The fault is of kind denied,
// its code "origin_refused".
func (p *Policy) Check(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if !p.allowsHost(r.Host) {
		return fault.Denied("Host not allowed: %s; name it in RUMI_ALLOWED_HOSTS, or call localhost (reads are answered under any name, changes aren't)", printable(r.Host)).With("origin_refused")
	}
	if err := p.origin.Check(r); err != nil {
		return fault.Denied("Origin not allowed: %s; name it in RUMI_ALLOWED_ORIGINS", printable(requestSource(r))).With("origin_refused").Because(err)
	}
	return nil
}

// requestSource names the page that a refused request comes from, as far as the browser says it.
func requestSource(r *http.Request) string {
	if o := r.Header.Get("Origin"); o != "" {
		return o
	}
	return "a page of another site"
}

// printable is what a client sent, in a form that an answer may repeat: quoted, 200 bytes at most.
func printable(s string) string {
	return strings.Trim(strconv.Quote(text.Clip(s, 200)), `"`)
}

// allowsHost says whether a Host header names us: with its port, or with any port.
func (p *Policy) allowsHost(host string) bool {
	host = normalHost(host)
	if p.hosts[host] {
		return true
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil || strings.Trim(port, "0123456789") != "" {
		return false
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return p.hosts[strings.TrimSuffix(name, ".")]
}

// normalHost is host as hosts are compared: small letters, no trailing dot.
func normalHost(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }
