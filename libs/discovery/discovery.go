// Package discovery says at which addresses a service is found.
package discovery

import (
	"fmt"
	"net"
	"strings"

	"github.com/go-kit/kit/sd"
)

// DefaultPort is where a service of the suite listens in its container.
const DefaultPort = "8080"

// Static is a fixed directory: the addresses (host:port) of each service by name. A service that it doesn't name is
// looked for under its own name at DefaultPort, as a compose network resolves it.
type Static map[string][]string

// ParseStatic reads "name=host:port,name=host:port"; a name may stand more than once. "" is an empty directory.
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

// Instancer gives go-kit the addresses of the named service.
func (s Static) Instancer(name string) sd.Instancer {
	if addresses := s[name]; len(addresses) > 0 {
		return fixed{addresses}
	}
	return fixed{sd.FixedInstancer{net.JoinHostPort(name, DefaultPort)}}
}

// fixed tells its addresses twice: go-kit's endpointer takes the second telling only when it has made endpoints of the
// first, so they are there when its constructor returns, and a first call right after it finds them.
type fixed struct{ sd.FixedInstancer }

// Register implements sd.Instancer.
func (f fixed) Register(ch chan<- sd.Event) {
	f.FixedInstancer.Register(ch)
	f.FixedInstancer.Register(ch)
}
