package dns

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	hostsTTL = 5 * time.Second
	maxFile  = 1 << 20 // bytes of a file that are read
)

// System makes a client that answers from /etc/hosts and asks the servers of /etc/resolv.conf. Both files are read again when they
// change. Search domains are not used: a pack that asks for "x" must not get "x.corp.example.com".
func System() *Client { return system("/etc/hosts", "/etc/resolv.conf") }

func system(hostsPath, resolvPath string) *Client {
	hosts := &file[map[string][]netip.Addr]{path: hostsPath, parse: parseHosts}
	resolv := &file[[]string]{path: resolvPath, parse: parseResolv}
	return &Client{
		servers: resolv.read, slots: make(chan struct{}, maxLookups),
		hosts: func(name string) []netip.Addr {
			known, err := hosts.read()
			if err != nil {
				return nil // a missing or unreadable /etc/hosts has no names, as for the C library
			}
			return known[strings.TrimSuffix(strings.ToLower(name), ".")]
		},
	}
}

// file is the parsed content of a file, read again when its identity, size or time of change differs.
type file[T any] struct {
	path  string
	parse func(io.Reader) T

	mu    sync.Mutex
	seen  os.FileInfo
	value T
}

func (f *file[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		var none T
		return none, fmt.Errorf("read %s: %w", f.path, err)
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return f.value, nil
	}
	data, err := os.Open(f.path)
	if err != nil {
		var none T
		return none, fmt.Errorf("read %s: %w", f.path, err)
	}
	defer data.Close()
	f.value, f.seen = f.parse(io.LimitReader(data, maxFile)), info
	return f.value, nil
}

// parseHosts reads lines of an address and its names. Other lines are skipped.
func parseHosts(r io.Reader) map[string][]netip.Addr {
	hosts := make(map[string][]netip.Addr)
	for fields := range lines(r, "#") {
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.TrimSuffix(strings.ToLower(name), ".")
			if len(hosts[name]) < maxAddrs {
				hosts[name] = append(hosts[name], addr)
			}
		}
	}
	return hosts
}

// parseResolv reads the servers. A file without any means a server on this machine, as resolv.conf(5) says.
func parseResolv(r io.Reader) (servers []string) {
	for fields := range lines(r, "#;") {
		if fields[0] != "nameserver" || len(fields) < 2 {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, net.JoinHostPort(addr.String(), "53"))
		}
	}
	if len(servers) == 0 {
		servers = []string{"127.0.0.1:53", "[::1]:53"}
	}
	return servers
}

// lines iterates over the fields of each line that has any, without comments.
func lines(r io.Reader, comment string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		in := bufio.NewScanner(r)
		for in.Scan() {
			line := in.Bytes()
			if i := bytes.IndexAny(line, comment); i >= 0 {
				line = line[:i]
			}
			if fields := strings.Fields(string(line)); len(fields) > 0 && !yield(fields) {
				return
			}
		}
	}
}
