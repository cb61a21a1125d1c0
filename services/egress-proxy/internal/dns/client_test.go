package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// server is a DNS server on loopback whose answers a test makes.
type server struct {
	t      *testing.T
	addr   string
	answer func(network string, q dnsmessage.Question, m *dnsmessage.Message) // fills the answer in; m.ID 0 for none at all

	mu    sync.Mutex
	asked []string // network, type, name
	ports map[string]bool
	ids   map[uint16]bool
}

func newServer(t *testing.T, answer func(string, dnsmessage.Question, *dnsmessage.Message)) *server {
	s := &server{t: t, answer: answer, ports: map[string]bool{}, ids: map[uint16]bool{}}
	var udp net.PacketConn
	var tcp net.Listener
	for range 20 { // the same port of both
		var err error
		if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			break
		}
		udp.Close()
	}
	if tcp == nil {
		t.Fatal("no port is free for UDP and TCP")
	}
	s.addr = udp.LocalAddr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.ports[from.String()] = true
			s.mu.Unlock()
			for _, m := range s.reply("udp", buf[:n]) {
				for range maxForeign { // a wrong one often enough to be noticed, a right one more often than needed
					udp.WriteTo(m, from)
				}
			}
		}
	})
	serving.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			var size [2]byte
			io.ReadFull(c, size[:])
			q := make([]byte, binary.BigEndian.Uint16(size[:]))
			io.ReadFull(c, q)
			for _, m := range s.reply("tcp", q) {
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
			}
			c.Close()
		}
	})
	t.Cleanup(func() { udp.Close(); tcp.Close(); serving.Wait() })
	return s
}

func (s *server) reply(network string, query []byte) [][]byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		s.t.Errorf("asked with %x: %v", query, err)
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	s.asked = append(s.asked, strings.Join([]string{network, strings.TrimPrefix(q.Type.String(), "Type"), q.Name.String(), strconv.Itoa(len(m.Additionals))}, " "))
	s.ids[m.ID] = true
	s.mu.Unlock()
	if !m.RecursionDesired {
		s.t.Error("recursion is not asked for")
	}
	m.Response, m.Additionals = true, nil
	s.answer(network, q, &m)
	if m.ID == 0 {
		return nil
	}
	packed, err := m.Pack()
	if err != nil {
		s.t.Error(err)
	}
	return [][]byte{packed}
}

func (s *server) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	slices.Sort(asked)
	return asked
}

func header(name string, kind dnsmessage.Type, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET, TTL: ttl}
}

func address(name, addr string, ttl uint32) dnsmessage.Resource {
	a := netip.MustParseAddr(addr)
	if a.Is4() {
		return dnsmessage.Resource{Header: header(name, dnsmessage.TypeA, ttl), Body: &dnsmessage.AResource{A: a.As4()}}
	}
	return dnsmessage.Resource{Header: header(name, dnsmessage.TypeAAAA, ttl), Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}
}

func cname(name, to string, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(name, dnsmessage.TypeCNAME, ttl), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}}
}

func soa(ttl, minimum uint32) dnsmessage.Resource {
	root := dnsmessage.MustNewName(".")
	return dnsmessage.Resource{Header: header(".", dnsmessage.TypeSOA, ttl), Body: &dnsmessage.SOAResource{NS: root, MBox: root, MinTTL: minimum}}
}

// of gives the resources of the type that is asked for.
func of(q dnsmessage.Question, all ...dnsmessage.Resource) (fitting []dnsmessage.Resource) {
	for _, r := range all {
		if r.Header.Type == q.Type || r.Header.Type == dnsmessage.TypeCNAME {
			fitting = append(fitting, r)
		}
	}
	return fitting
}

func texts(addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestLookup(t *testing.T) {
	const name = "x.example."
	for about, c := range map[string]struct {
		answer func(network string, q dnsmessage.Question, m *dnsmessage.Message)
		addrs  string
		ttl    time.Duration
		err    string // "nothing" for NotFoundError
		asked  string // "" for one UDP query of each type
	}{
		"both families, the shorter time to live": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, address(name, "192.0.2.1", 60), address(name, "192.0.2.2", 50), address(name, "2001:db8::1", 300))
		}, "192.0.2.1 192.0.2.2 2001:db8::1", 50 * time.Second, "", ""},
		"one family": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, address(name, "192.0.2.1", 60))
			m.Authorities = []dnsmessage.Resource{soa(5, 5)}
		}, "192.0.2.1", time.Minute, "", ""},
		"aliases": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, address("Z.example.", "192.0.2.1", 60), cname("y.example.", "z.example.", 7), cname("X.Example.", "Y.example.", 90))
		}, "192.0.2.1", 7 * time.Second, "", ""},
		"records of another name": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, address("evil.example.", "192.0.2.9", 60), cname("evil.example.", name, 7), address(name, "192.0.2.1", 60))
		}, "192.0.2.1", time.Minute, "", ""},
		"a record of the other type": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = []dnsmessage.Resource{address(name, "192.0.2.1", 60)} // for AAAA, too
		}, "192.0.2.1", time.Minute, "", ""},
		"aliases in a circle": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, cname(name, "y.example.", 60), cname("y.example.", name, 60))
		}, "", 0, "too many aliases", "*"},
		"two aliases of one name": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, cname(name, "y.example.", 60), cname(name, "z.example.", 60), address("y.example.", "192.0.2.1", 60))
		}, "", 0, "malformed", "*"},
		"an alias to nothing": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, cname(name, "y.example.", 60))
			m.Authorities = []dnsmessage.Resource{soa(100, 20)}
		}, "", 20 * time.Second, "nothing", ""},
		"no such name": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(15, 20)}
		}, "", 15 * time.Second, "nothing", ""},
		"no such name, but an address": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.RCode, m.Answers = dnsmessage.RCodeNameError, of(q, address(name, "192.0.2.1", 60))
		}, "", 0, "nothing", ""},
		"a huge time to live": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Answers = of(q, address(name, "192.0.2.1", 1<<31))
		}, "192.0.2.1", 0, "", ""},
		"cut short": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Truncated = network == "udp"
			m.Answers = of(q, address(name, "192.0.2.1", 60))
			if !m.Truncated {
				m.Answers = of(q, address(name, "192.0.2.1", 60), address(name, "10.0.0.1", 60))
			}
		}, "10.0.0.1 192.0.2.1", time.Minute, "", "tcp A x.example. 1,tcp AAAA x.example. 1,udp A x.example. 1,udp AAAA x.example. 1"},
		"no EDNS": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.RCode = dnsmessage.RCodeFormatError
			m.Questions = nil
		}, "", 0, "EDNS", "*"},
		"another id": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.ID ^= 1
			m.Answers = of(q, address(name, "192.0.2.1", 60))
		}, "", 0, "another question", "*"},
		"another name": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Questions[0].Name = dnsmessage.MustNewName("y.example.")
			m.Answers = of(q, address("y.example.", "192.0.2.1", 60), address(name, "192.0.2.1", 60))
		}, "", 0, "another question", "*"},
		"a question, no answer": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Response = false
			m.Answers = of(q, address(name, "192.0.2.1", 60))
		}, "", 0, "another question", "*"},
		"the name in another case": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Questions[0].Name = dnsmessage.MustNewName("X.Example.")
			m.Answers = of(q, address(name, "192.0.2.1", 60))
		}, "192.0.2.1", time.Minute, "", ""},
		"refused": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.RCode = dnsmessage.RCodeRefused
		}, "", 0, "Refused", "*"},
		"one family fails": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			if q.Type == dnsmessage.TypeAAAA {
				m.RCode = dnsmessage.RCodeServerFailure
			}
			m.Answers = of(q, address(name, "192.0.2.1", 60))
		}, "192.0.2.1", 0, "", "*"},
		"one is nothing, one fails": {func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
			if q.Type == dnsmessage.TypeA {
				m.RCode = dnsmessage.RCodeServerFailure
			}
		}, "", 0, "ServerFailure", "*"},
		"very many addresses": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Truncated = network == "udp"
			for i := range maxAddrs + 1 {
				if network == "tcp" {
					m.Answers = append(m.Answers, of(q, address(name, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), 60))...)
				}
			}
		}, "", 0, "too many addresses", "*"},
		"very many records": {func(network string, q dnsmessage.Question, m *dnsmessage.Message) {
			m.Truncated = network == "udp"
			for range maxRecords + 1 {
				if network == "tcp" {
					m.Answers = append(m.Answers, address("evil.example.", "192.0.2.1", 60))
				}
			}
		}, "", 0, "malformed", "*"},
	} {
		t.Run(about, func(t *testing.T) {
			s := newServer(t, c.answer)
			got, err := New([]string{s.addr}).Lookup(t.Context(), "x.example")
			var nothing *NotFoundError
			switch {
			case c.err == "nothing":
				if !errors.As(err, &nothing) || nothing.TTL != c.ttl {
					t.Errorf("got %v, want that there is no such name, for %v", err, c.ttl)
				}
			case c.err != "":
				if err == nil || errors.As(err, &nothing) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want an error with %q", err, c.err)
				}
			case err != nil || texts(got.Addrs) != c.addrs || got.TTL != c.ttl:
				t.Errorf("got %v for %v, %v; want %s for %v", got.Addrs, got.TTL, err, c.addrs, c.ttl)
			}
			want := c.asked
			if want == "" {
				want = "udp A x.example. 1,udp AAAA x.example. 1"
			}
			if asked := strings.Join(s.questions(), ","); want != "*" && asked != want {
				t.Errorf("asked %s, want %s", asked, want)
			}
		})
	}
}

// A server that knows nothing of EDNS is asked without it.
func TestWithoutEDNS(t *testing.T) {
	var before sync.Map // types of questions
	s := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
		if _, again := before.LoadOrStore(q.Type, true); !again {
			m.RCode = dnsmessage.RCodeFormatError
			return
		}
		m.Answers = of(q, address(q.Name.String(), "192.0.2.1", 60))
	})
	if got, err := New([]string{s.addr}).Lookup(t.Context(), "x.example"); err != nil || texts(got.Addrs) != "192.0.2.1" {
		t.Errorf("got %v, %v, want 192.0.2.1", got, err)
	}
	const want = "udp A x.example. 0,udp A x.example. 1,udp AAAA x.example. 0,udp AAAA x.example. 1"
	if asked := strings.Join(s.questions(), ","); asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
}

// A server that is gone, and one that fails, cost a try; the next one answers.
func TestNextServer(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	bad := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure })
	good := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
		m.Answers = of(q, address(q.Name.String(), "192.0.2.1", 60))
	})
	got, err := New([]string{l.LocalAddr().String(), bad.addr, good.addr}).Lookup(t.Context(), "x.example")
	if err != nil || texts(got.Addrs) != "192.0.2.1" {
		t.Errorf("got %v, %v, want 192.0.2.1 of the server that answers", got, err)
	}
	if _, err := New(nil).Lookup(t.Context(), "x.example"); err == nil {
		t.Error("an answer from nobody")
	}
}

// Every query comes from a socket of its own and has an id that can't be foretold.
func TestQueriesDiffer(t *testing.T) {
	s := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
		m.Answers = of(q, address(q.Name.String(), "192.0.2.1", 60))
	})
	c := New([]string{s.addr})
	const n = 64
	for range n / 2 {
		if _, err := c.Lookup(t.Context(), "x.example"); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) < n-4 || len(s.ports) < n/2 { // ids and ports may repeat by chance
		t.Errorf("%d ids and %d ports of %d queries", len(s.ids), len(s.ports), n)
	}
}

func TestSilence(t *testing.T) {
	s := newServer(t, func(_ string, _ dnsmessage.Question, m *dnsmessage.Message) { m.ID = 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := New([]string{s.addr}).Lookup(ctx, "x.example"); err == nil || time.Since(began) > tryTimeout {
		t.Errorf("%v after %v, want an error within %v", err, time.Since(began), tryTimeout)
	}
}

// A server that drops questions for IPv6 addresses costs the grace once: then the answer comes at once, holds as its records
// say, and the other family is still asked for and told when it is answered after all.
func TestOneFamilyIsNotAnswered(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
		if q.Type == dnsmessage.TypeAAAA {
			select {
			case <-release:
			default:
				m.ID = 0
				return
			}
		}
		m.Answers = of(q, address(q.Name.String(), "192.0.2.1", 60), address(q.Name.String(), "2001:db8::1", 300))
	})
	c := New([]string{s.addr})
	var took [3]time.Duration
	var last Answer
	for i, name := range []string{"x.example", "y.example", "z.example"} {
		began := time.Now()
		a, err := c.Lookup(t.Context(), name)
		took[i], last = time.Since(began), a
		if err != nil || texts(a.Addrs) != "192.0.2.1" || a.TTL != time.Minute || a.Late == nil {
			t.Fatalf("%s: got %v %v, late %v, %v; want the IPv4 address for a minute, the rest late", name, a.Addrs, a.TTL, a.Late, err)
		}
	}
	if took[0] < grace || took[1] > grace/2 || took[2] > grace/2 {
		t.Errorf("took %v; want the grace of %v once, then %v", took, grace, shortGrace)
	}
	close(release) // the next try is answered
	select {
	case whole := <-last.Late:
		if texts(whole.Addrs) != "192.0.2.1 2001:db8::1" {
			t.Errorf("late %v, want both families", whole.Addrs)
		}
	case <-time.After(timeout + time.Second):
		t.Error("the late family was never told")
	}
	if a, err := c.Lookup(t.Context(), "v.example"); err != nil || a.Late != nil {
		t.Errorf("once it answers again: late %v, %v; want both at once", a.Late, err)
	}
}

func TestBadNames(t *testing.T) {
	s := newServer(t, func(string, dnsmessage.Question, *dnsmessage.Message) {})
	for _, name := range []string{strings.Repeat("a.", 130), strings.Repeat("a", 64) + ".example", "a..example"} {
		if _, err := New([]string{s.addr}).Lookup(t.Context(), name); err == nil {
			t.Errorf("%q was looked up", name)
		}
	}
	if asked := s.questions(); asked != nil {
		t.Errorf("asked %v, want no question", asked)
	}
}
