package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Whatever a request says, what passes names nobody but the caller and its home; what doesn't is refused with a fault, not a crash.
func FuzzRequest(f *testing.F) {
	const home = "0123456789abcdef0123456789abcdef"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	own, err := url.Parse("urn:rumi:home:" + home)
	if err != nil {
		f.Fatal(err)
	}
	for _, template := range []x509.CertificateRequest{
		{},
		{Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"gateway"}, URIs: []*url.URL{own}},
		{DNSNames: []string{"gateway", "approval"}},
		{IPAddresses: []net.IP{net.IPv6loopback}, EmailAddresses: []string{"a@b"}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
		f.Add(der[:len(der)/2])
	}
	f.Add([]byte(nil))
	f.Add(make([]byte, maxRequest+1))
	a := &Authority{home: home}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			if !fault.Is(err, fault.KindInvalid) {
				t.Errorf("refused with %v, want a fault of kind invalid", err)
			}
			return
		}
		if a.beyond(r, "gateway") != "" {
			return
		}
		for _, name := range append([]string{r.Subject.CommonName}, r.DNSNames...) {
			if name != "" && name != "gateway" {
				t.Errorf("a request for %q passes as the gateway's", name)
			}
		}
		if len(r.IPAddresses)+len(r.EmailAddresses) > 0 || len(r.URIs) > 1 || len(r.URIs) == 1 && r.URIs[0].String() != own.String() {
			t.Errorf("a request for %v, %v, %v passes", r.IPAddresses, r.EmailAddresses, r.URIs)
		}
	})
}
