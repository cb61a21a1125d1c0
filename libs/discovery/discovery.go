// Package discovery finds the addresses of services: those that the setting RUMI_PEERS names, and the names of a compose network for
// the others. libs/rpc/client takes them as an sd.Instancer of go-kit.
package discovery

import (
	"fmt"
	"net"
	"strings"

	"github.com/go-kit/kit/sd"
)

// DefaultPort is the TCP port at which a service listens in its container.
const DefaultPort = "8080"

// Static is a directory that doesn't change while the process runs: the addresses (host:port) of each service, by the service's name. A
// service that it doesn't name is called at its own name and DefaultPort: a compose network resolves that name.
type Static map[string][]string

// ParseStatic reads "name=host:port,name=host:port". A name that stands more than once has several addresses, one for each replica. ""
// is an empty directory. The error quotes the entry that can't be read.
func ParseStatic(s string) (Static, error) {
	directory := Static{}
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, address, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("parse peers: %q: want name=host:port, such as approval=approval.internal:8080", entry)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("parse peers: %q: want name=host:port, such as approval=approval.internal:8080: %w", entry, err)
		}
		directory[name] = append(directory[name], address)
	}
	return directory, nil
}

// Instancer returns the addresses of the named service for an endpointer of go-kit. There is always at least one.
func (s Static) Instancer(name string) sd.Instancer {
	if addresses := s[name]; len(addresses) > 0 {
		return fixed{addresses}
	}
	return fixed{sd.FixedInstancer{net.JoinHostPort(name, DefaultPort)}}
}

// fixed sends its addresses twice. Otherwise there is a race: the constructor of go-kit's endpointer returns when the addresses were
// received, before their endpoints exist, so that a call right after it would find no endpoint. The endpointer receives the second event
// only after it has made the endpoints of the first, and Register returns after that.
type fixed struct{ sd.FixedInstancer }

// Register implements sd.Instancer.
func (f fixed) Register(ch chan<- sd.Event) {
	f.FixedInstancer.Register(ch)
	f.FixedInstancer.Register(ch)
}
