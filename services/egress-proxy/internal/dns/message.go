package dns

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds on what an answer may hold. What is longer is refused whole: no address is dropped before it was judged.
const (
	maxRecords = 256 // in the answer section
	maxAddrs   = 64
	maxChain   = 8 // aliases from the name that was asked for to the one that has addresses
)

// payload is the largest UDP answer that is asked for: what crosses any path unfragmented (RFC 9715, section 3.1).
const payload = 1232

var (
	errForeign   = errors.New("read DNS answer: it is to another question")
	errMalformed = errors.New("read DNS answer: it is malformed")
	errTruncated = errors.New("read DNS answer: it was cut short")
	errNoEDNS    = errors.New("read DNS answer: the server doesn't understand EDNS")
)

// question is one query: a name, absolute, and A or AAAA.
type question struct {
	name dnsmessage.Name
	kind dnsmessage.Type
}

// newQuery is the message that asks q.
func newQuery(id uint16, q question, edns bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 2, 2+512), dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: q.name, Type: q.kind, Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	if edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(payload, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	m, err := b.Finish()
	if err != nil {
		return nil, err
	}
	n := len(m) - 2 // TCP's length before the message (RFC 1035, section 4.2.2); UDP leaves it out
	m[0], m[1] = byte(n>>8), byte(n)
	return m, nil
}

// parse reads the answer to q that was asked under an id. No addresses and no error is a name that has none, or doesn't
// exist: ttl then says how long that holds.
func parse(m []byte, id uint16, q question) (addrs []netip.Addr, ttl time.Duration, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(m)
	if err != nil || h.ID != id || !h.Response || h.OpCode != 0 {
		return nil, 0, errForeign
	}
	asked, err := p.AllQuestions()
	switch {
	case err == nil && len(asked) == 0 && (h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented):
		return nil, 0, errNoEDNS
	case err != nil || len(asked) != 1 || asked[0].Type != q.kind || asked[0].Class != dnsmessage.ClassINET || !sameName(asked[0].Name, q.name):
		return nil, 0, errForeign
	case h.Truncated:
		return nil, 0, errTruncated
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	case dnsmessage.RCodeFormatError, dnsmessage.RCodeNotImplemented:
		return nil, 0, errNoEDNS
	default:
		return nil, 0, fmt.Errorf("read DNS answer: the server says %s", strings.TrimPrefix(h.RCode.String(), "RCode"))
	}
	found, err := readAnswers(&p, q.kind)
	if err != nil {
		return nil, 0, err
	}
	addrs, ttl, err = found.follow(q.name)
	if err != nil || len(addrs) > 0 && h.RCode == dnsmessage.RCodeSuccess {
		return addrs, ttl, err
	}
	return nil, min(ttl, soaTTL(&p)), nil
}

// records are those of an answer that are of use, by the name they are for.
type records struct {
	aliases map[string]alias
	addrs   map[string][]netip.Addr
	ttls    map[string]time.Duration // of addrs, the shortest
}

type alias struct {
	to  dnsmessage.Name
	ttl time.Duration
}

func readAnswers(p *dnsmessage.Parser, kind dnsmessage.Type) (*records, error) {
	r := &records{map[string]alias{}, map[string][]netip.Addr{}, map[string]time.Duration{}}
	for n := 0; ; n++ {
		h, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			return r, nil
		}
		if err != nil || n >= maxRecords {
			return nil, errMalformed
		}
		owner, ttl := key(h.Name), duration(h.TTL)
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			if c, err = p.CNAMEResource(); err == nil {
				if old, twice := r.aliases[owner]; twice && !sameName(old.to, c.CNAME) {
					return nil, errMalformed
				}
				r.aliases[owner] = alias{c.CNAME, ttl}
			}
		case h.Type == kind && kind == dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				r.add(owner, netip.AddrFrom4(a.A), ttl)
			}
		case h.Type == kind && kind == dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				r.add(owner, netip.AddrFrom16(a.AAAA), ttl)
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return nil, errMalformed
		}
	}
}

func (r *records) add(owner string, a netip.Addr, ttl time.Duration) {
	if before, ok := r.ttls[owner]; !ok || ttl < before {
		r.ttls[owner] = ttl
	}
	r.addrs[owner] = append(r.addrs[owner], a)
}

// follow goes from a name along its aliases to addresses. Records of names that don't lie on that way are none of it.
func (r *records) follow(name dnsmessage.Name) ([]netip.Addr, time.Duration, error) {
	ttl := time.Duration(math.MaxInt64)
	at := key(name)
	for range maxChain + 1 {
		if addrs := r.addrs[at]; len(addrs) > 0 {
			if len(addrs) > maxAddrs {
				return nil, 0, errors.New("read DNS answer: too many addresses")
			}
			return addrs, min(ttl, r.ttls[at]), nil
		}
		next, ok := r.aliases[at]
		if !ok {
			return nil, ttl, nil
		}
		ttl = min(ttl, next.ttl)
		at = key(next.to)
	}
	return nil, 0, errors.New("read DNS answer: too many aliases")
}

// soaTTL is how long it holds that there is nothing (RFC 2308, section 5), 0 where nobody says.
func soaTTL(p *dnsmessage.Parser) time.Duration {
	for range maxRecords {
		h, err := p.AuthorityHeader()
		if err != nil {
			return 0
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				return 0
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0
		}
		return min(duration(h.TTL), duration(soa.MinTTL))
	}
	return 0
}

// duration reads a time to live. One with its highest bit set is zero (RFC 2181, section 8).
func duration(ttl uint32) time.Duration {
	if ttl > math.MaxInt32 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

func key(n dnsmessage.Name) string { return lower(n.Data[:n.Length]) }

func sameName(a, b dnsmessage.Name) bool { return key(a) == key(b) }

// lower folds A-Z only: a name may hold any byte.
func lower(name []byte) string {
	b := make([]byte, len(name))
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b[i] = c
	}
	return string(b)
}
