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

// Bounds on an answer. A longer one is refused as a whole, not cut: an internal address must not get lost before it is judged.
const (
	maxRecords = 256 // in the answer section
	maxAddrs   = 64
	maxChain   = 8 // aliases (CNAME) between the name that was asked for and the one with addresses
)

// payload is the largest UDP answer that a server is asked to send. Of that size it isn't fragmented on any usual path (RFC 9715, section
// 3.1); the second fragment of an answer can be forged without knowing port or id.
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

// newQuery makes the message that asks q, with TCP's two bytes of length in front.
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

// parse reads the answer to q that was asked under an id. No addresses and no error means that the name has none, or doesn't exist:
// ttl is then how long that may be cached.
func parse(m []byte, id uint16, q question) (addrs []netip.Addr, ttl time.Duration, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(m)
	if err != nil {
		return nil, 0, errForeign
	}
	if err := checkReply(h, &p, id, q); err != nil {
		return nil, 0, err
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

// checkReply is nil for a message that answers q, whole and with success or "no such name". errForeign is for one that answers another
// query, which may be forged: the id and the question, which a forger must guess, are compared before anything else of it
// is believed.
func checkReply(h dnsmessage.Header, p *dnsmessage.Parser, id uint16, q question) error {
	if h.ID != id || !h.Response || h.OpCode != 0 {
		return errForeign
	}
	withoutEDNS := h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented
	asked, err := p.AllQuestions()
	switch {
	case err == nil && len(asked) == 0 && withoutEDNS:
		return errNoEDNS
	case err != nil || len(asked) != 1 || !q.is(asked[0]):
		return errForeign
	case h.Truncated:
		return errTruncated
	case withoutEDNS:
		return errNoEDNS
	case h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError:
		return fmt.Errorf("read DNS answer: the server says %s", strings.TrimPrefix(h.RCode.String(), "RCode"))
	}
	return nil
}

// is says whether a question of a message is q.
func (q question) is(asked dnsmessage.Question) bool {
	return asked.Type == q.kind && asked.Class == dnsmessage.ClassINET && sameName(asked.Name, q.name)
}

// records are the address and alias records of an answer, by owner name.
type records struct {
	aliases map[string]alias
	addrs   map[string][]netip.Addr
	ttls    map[string]time.Duration // of addrs, the shortest
}

type alias struct {
	to  dnsmessage.Name
	ttl time.Duration
}

// readAnswers reads the answer section: aliases, and addresses of one kind.
func readAnswers(p *dnsmessage.Parser, kind dnsmessage.Type) (*records, error) {
	r := &records{map[string]alias{}, map[string][]netip.Addr{}, map[string]time.Duration{}}
	for n := 0; ; n++ {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return r, nil
		}
		if err != nil || n >= maxRecords || r.read(p, h, kind) != nil {
			return nil, errMalformed
		}
	}
}

// read reads one record, whose header is h. Records of other kinds are skipped.
func (r *records) read(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, kind dnsmessage.Type) error {
	owner, ttl := key(h.Name), duration(h.TTL)
	switch {
	case h.Class != dnsmessage.ClassINET:
		return p.SkipAnswer()
	case h.Type == dnsmessage.TypeCNAME:
		c, err := p.CNAMEResource()
		if err != nil {
			return err
		}
		if old, twice := r.aliases[owner]; twice && !sameName(old.to, c.CNAME) { // which of them holds, nobody can tell
			return errMalformed
		}
		r.aliases[owner] = alias{c.CNAME, ttl}
		return nil
	case h.Type == kind && kind == dnsmessage.TypeA:
		a, err := p.AResource()
		r.add(owner, netip.AddrFrom4(a.A), ttl)
		return err
	case h.Type == kind && kind == dnsmessage.TypeAAAA:
		a, err := p.AAAAResource()
		r.add(owner, netip.AddrFrom16(a.AAAA), ttl)
		return err
	}
	return p.SkipAnswer()
}

func (r *records) add(owner string, a netip.Addr, ttl time.Duration) {
	if before, ok := r.ttls[owner]; !ok || ttl < before {
		r.ttls[owner] = ttl
	}
	r.addrs[owner] = append(r.addrs[owner], a)
}

// follow goes from a name along its aliases to addresses. Records of other names are ignored: a server could put any name's
// addresses into its answer (cache poisoning).
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

// soaTTL is how long a negative answer may be cached (RFC 2308, section 5), 0 if the answer doesn't say.
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

// duration converts a time to live. One with its highest bit set counts as zero (RFC 2181, section 8).
func duration(ttl uint32) time.Duration {
	if ttl > math.MaxInt32 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

func key(n dnsmessage.Name) string { return lower(n.Data[:n.Length]) }

func sameName(a, b dnsmessage.Name) bool { return key(a) == key(b) }

// lower folds A to Z only. A name may have any bytes, so they must not be taken for UTF-8.
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
