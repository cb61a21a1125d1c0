package frameproto

import (
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

func TestTimes(t *testing.T) {
	second := func(v float64) *float64 { return &v }
	tests := []struct {
		m                    message
		total, connect, read time.Duration
	}{
		{message{}, defaultTimeout, 0, 0},
		{message{Timeout: second(5)}, 5 * time.Second, 0, 0},
		{message{Timeout: second(120)}, 120 * time.Second, 0, 0},
		{message{Timeout: second(1e-12)}, 1, 0, 0},
		{message{Connect: second(2), Read: second(3)}, 120 * time.Second, 2 * time.Second, 3 * time.Second},
		{message{Connect: second(2)}, 120 * time.Second, 2 * time.Second, 30 * time.Second},
		{message{Read: second(3)}, 120 * time.Second, 10 * time.Second, 3 * time.Second},
		{message{Connect: second(120), Read: second(120)}, 120 * time.Second, 120 * time.Second, 120 * time.Second},
		{message{Timeout: second(5), Connect: second(2), Read: second(100)}, 5 * time.Second, 2 * time.Second, 100 * time.Second},
		{message{Timeout: second(10), Read: second(1)}, 10 * time.Second, 0, time.Second},
		{message{Timeout: second(10), Connect: second(1)}, 10 * time.Second, time.Second, 0},
	}
	for _, tt := range tests {
		var c call
		if f := c.setTimes(tt.m); f != nil || c.total != tt.total || c.connect != tt.connect || c.read != tt.read {
			t.Errorf("%+v: total %v, connect %v, read %v, %v; want %v, %v, %v", tt.m, c.total, c.connect, c.read, f, tt.total, tt.connect, tt.read)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"method":"GET","url":"http://x.example/"}`, `{"url":"https://[::1]:443/a?b#c","headers":{"A":"b"},"body":"x","timeout_seconds":1.5}`,
		`{"url":"http://127.1/"}`, `{"url":"http://ü.example/%41?ü"}`, `{"timeout_seconds":NaN}`, `{"headers":{"Connection":"x, y"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		c, failure := parse(frame)
		if failure != nil {
			if failure.Kind != "validation_error" && failure.Kind != "protocol_error" {
				t.Fatalf("%q fails with %+v, want validation_error or protocol_error", frame, failure)
			}
			return
		}
		for i := range len(c.url.Path) {
			if b := c.url.Path[i]; b <= ' ' || b >= 0x7f {
				t.Fatalf("%q has the target %q, want only visible ASCII", frame, c.url.Path)
			}
		}
		if c.url.Path[0] != '/' || c.total <= 0 || c.total > maxTimeout || !methodAllowed(c.method) {
			t.Fatalf("%q is read as %+v, want a path, a method that is allowed and a time within its limit", frame, c)
		}
		for _, field := range c.fields {
			if strings.ContainsAny(field.Name+field.Value, "\r\n\x00") {
				t.Fatalf("%q has the field %+v, want it without the ends of lines", frame, field)
			}
		}
		again, failure := decision.ParseURL(c.url.String())
		if failure != nil && !c.url.Host.Numeric || failure == nil && (again.Host.Name != c.url.Host.Name || again.Port != c.url.Port || again.Path != c.url.Path || again.TLS != c.url.TLS) {
			t.Fatalf("%q: its URL %q is read again as %+v, %+v; want the same", frame, c.url.String(), again, failure)
		}
	})
}
