package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
)

// nameServer answers every question for an IPv4 address with 127.0.0.1, and notes them.
func nameServer(t *testing.T) (addr string, asked func() []string) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var names []string
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				t.Errorf("asked with %x, %v; want one question", buf[:n], err)
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				mu.Lock()
				names = append(names, q.Name.String())
				mu.Unlock()
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			packed, err := m.Pack()
			if err != nil {
				t.Error(err)
			}
			l.WriteTo(packed, from)
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.LocalAddr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return names
	}
}

// Packs' names are asked of the servers that the operator named, once while the answer holds, and only if they are granted.
func TestConfiguredDNS(t *testing.T) {
	server, asked := nameServer(t)
	r := newRigOf(t, map[string]string{"RUMI_EGRESS_DNS": server}, func(cfg config) (packs, suite resolve.Resolver) {
		packs, _ = resolvers(cfg)
		return packs, noNames{} // the system's would be asked for the suite's names
	})
	_, port := upstreamServer(t, func(rw http.ResponseWriter, q *http.Request) { io.WriteString(rw, q.Host) })
	r.pack("p", "approved")
	c := r.dial("p")
	r.grant("p", `"*.models.example"`, port)
	for range 3 {
		if a := r.ask(c, "http://a.models.example:"+port+"/"); a.Body != "a.models.example:"+port {
			t.Errorf("got %+v, want the answer of a.models.example", a)
		}
	}
	for _, host := range []string{"other.example", "models.example", "gateway"} {
		if a := r.ask(c, fmt.Sprintf("http://%s:%s/", host, port)); a.ErrorType != "grant_denied" {
			t.Errorf("%s: got %+v, want grant_denied", host, a)
		}
	}
	if got := strings.Join(asked(), " "); got != "a.models.example." {
		t.Errorf("asked for %s, want a.models.example. alone", got)
	}
}
