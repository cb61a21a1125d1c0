package dns

import (
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// What a server sends is bounded and belongs to the question, whatever it is.
func FuzzParse(f *testing.F) {
	q := question{dnsmessage.MustNewName("x.example."), dnsmessage.TypeA}
	const id = 0x1234
	seed := func(change func(*dnsmessage.Message)) {
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true},
			Questions: []dnsmessage.Question{{Name: q.name, Type: q.kind, Class: dnsmessage.ClassINET}},
		}
		change(&m)
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	seed(func(m *dnsmessage.Message) { m.Answers = []dnsmessage.Resource{address("x.example.", "192.0.2.1", 60)} })
	seed(func(m *dnsmessage.Message) {
		m.Answers = []dnsmessage.Resource{cname("x.example.", "y.example.", 5), address("y.example.", "192.0.2.1", 60)}
	})
	seed(func(m *dnsmessage.Message) {
		m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(5, 6)}
	})
	seed(func(m *dnsmessage.Message) { m.Truncated = true })
	seed(func(m *dnsmessage.Message) { m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil })
	f.Add([]byte{0x12, 0x34, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}) // a name that points at itself
	f.Fuzz(func(t *testing.T, m []byte) {
		addrs, ttl, err := parse(m, id, q)
		if len(addrs) > maxAddrs || err != nil && addrs != nil || ttl < 0 || ttl > 1<<31*time.Second {
			t.Fatalf("parsed %d addresses, %v, %v; want at most the limit, and none with an error", len(addrs), ttl, err)
		}
		for _, a := range addrs {
			if !a.Is4() {
				t.Fatalf("%v is the answer to a question for IPv4", a)
			}
		}
		if len(addrs) > 0 && (len(m) < 12 || m[0] != 0x12 || m[1] != 0x34 || m[2]&0x80 == 0) {
			t.Fatalf("%x was taken for the answer", m)
		}
	})
}
