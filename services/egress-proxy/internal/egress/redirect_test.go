package egress

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

func TestRedirects(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"a.example", "b.example", "127.0.0.1", "169.254.169.254", "gateway"}
	var got []*http.Request
	serve := func(rw http.ResponseWriter, r *http.Request) {
		got = append(got, r)
		if r.URL.Path == "/long" {
			rw.Header().Set("Location", "/"+strings.Repeat("a", decision.MaxURL))
			rw.WriteHeader(302)
		}
		q := r.URL.Query()
		if to := q.Get("to"); to != "" {
			status := 302
			fmt.Sscan(q.Get("status"), &status)
			rw.Header().Set("Location", to)
			rw.WriteHeader(status)
			return
		}
		var n int
		if _, err := fmt.Sscanf(r.URL.Path, "/hops/%d", &n); err == nil && n > 0 {
			http.Redirect(rw, r, fmt.Sprintf("/hops/%d", n-1), http.StatusMovedPermanently)
			return
		}
		fmt.Fprint(rw, "end")
	}
	w.site("a.example", "93.184.216.1", false, serve)
	w.site("a.example", "93.184.216.1", true, serve)
	w.site("b.example", "93.184.216.2", false, serve)
	creds := map[string]string{"Authorization": "secret", "Cookie": "secret", "X-Api-Key": "secret", "Accept": "text/html"}

	tests := []struct {
		name, method, url string
		kind              string
		hops              int
		final             string // of a success
		creds             bool   // the last hop got the credentials
	}{
		{"none", "GET", "http://a.example/", "", 0, "http://a.example/", true},
		{"relative", "GET", "http://a.example/x/y?to=z", "", 1, "http://a.example/x/z", true},
		{"three", "GET", "http://a.example/hops/3", "", 3, "http://a.example/hops/0", true},
		{"four", "GET", "http://a.example/hops/4", "too_many_redirects", 3, "", false},
		{"HEAD", "HEAD", "http://a.example/hops/2", "", 2, "http://a.example/hops/0", true},
		{"POST doesn't follow", "POST", "http://a.example/?to=/x", "", 0, "http://a.example/?to=/x", true},
		{"PUT doesn't follow", "PUT", "http://a.example/?to=/x&status=307", "", 0, "http://a.example/?to=/x&status=307", true},
		{"303", "GET", "http://a.example/?to=/x&status=303", "", 1, "http://a.example/x", true},
		{"307", "GET", "http://a.example/?to=/x&status=307", "", 1, "http://a.example/x", true},
		{"308", "GET", "http://a.example/?to=/x&status=308", "", 1, "http://a.example/x", true},
		{"300 is an answer", "GET", "http://a.example/?to=/x&status=300", "", 0, "http://a.example/?to=/x&status=300", true},
		{"304 is an answer", "GET", "http://a.example/?to=/x&status=304", "", 0, "http://a.example/?to=/x&status=304", true},
		{"another host", "GET", "http://a.example/?to=http://b.example/x", "", 1, "http://b.example/x", false},
		{"another host by scheme", "GET", "http://a.example/?to=//b.example/x", "", 1, "http://b.example/x", false},
		{"there and back", "GET", "http://a.example/?to=" + escape("http://b.example/?to="+escape("http://a.example/x")), "", 2, "http://a.example/x", false},
		{"to https", "GET", "http://a.example/?to=https://a.example/x", "", 1, "https://a.example/x", true},
		{"to http", "GET", "https://a.example/?to=http://a.example/x", "", 1, "http://a.example/x", false},
		{"another spelling", "GET", "http://a.example/?to=HTTP://A.Example.:80/x", "", 1, "http://a.example/x", true},
		{"not granted", "GET", "http://a.example/?to=http://c.example/", "grant_denied", 1, "", false},
		{"internal address", "GET", "http://a.example/?to=http://127.0.0.1/", "blocked", 1, "", false},
		{"metadata", "GET", "http://a.example/?to=http://169.254.169.254/latest", "blocked", 1, "", false},
		{"numeric", "GET", "http://a.example/?to=http://0x7f.1/", "blocked", 1, "", false},
		{"internal name", "GET", "http://a.example/?to=http://gateway/", "blocked", 1, "", false},
		{"scheme", "GET", "http://a.example/?to=file:///etc/passwd", "validation_error", 1, "", false},
		{"user-info", "GET", "http://a.example/?to=http://u:p@b.example/", "validation_error", 1, "", false},
		{"percent in host", "GET", "http://a.example/?to=" + escape("http://%62.example/"), "validation_error", 1, "", false},
		{"invalid", "GET", "http://a.example/?to=" + escape("http://[/"), "validation_error", 1, "", false},
		{"long", "GET", "http://a.example/long", "validation_error", 1, "", false},
	}
	for _, tt := range tests {
		got = nil
		w.contacts()
		w.audited()
		r := w.ask(tt.method, tt.url, "headers", creds)
		if r.errorType() != tt.kind || *r.Hops != tt.hops || tt.kind == "" && *r.FinalURL != tt.final {
			t.Errorf("%s: got %s %q after %d hops, final %v; want the error type %q after %d hops, final %q", tt.name, r.errorType(), r.errorText(), *r.Hops, r.FinalURL, tt.kind, tt.hops, tt.final)
			continue
		}
		if tt.kind == "" {
			last := got[len(got)-1].Header
			for name := range creds {
				if sent := last.Get(name) != ""; sent != (tt.creds || name == "Accept") {
					t.Errorf("%s: %s sent on: %v, want %v", tt.name, name, sent, tt.creds || name == "Accept")
				}
			}
		}
		if _, dialled := w.contacts(); slices.ContainsFunc(dialled, func(to string) bool { return !strings.HasPrefix(to, "93.184.216.") }) {
			t.Errorf("%s: dialled %v, want only the sites' addresses", tt.name, dialled)
		}
		if tt.kind == "too_many_redirects" && r.errorText() != "Too many redirects: 4 > 3" {
			t.Errorf("%s: got %q, want too many redirects: 4 > 3", tt.name, r.errorText())
		}
		for _, e := range w.audited() {
			if e.Details["redirect_hops"] != int64(tt.hops) {
				t.Errorf("%s: the entry is %+v, want %d redirect hops", tt.name, e, tt.hops)
			}
		}
	}
}

// A redirect may close the gate behind itself: every hop is decided on anew, by the permissions of that moment.
func TestRedirectHopsAreJudgedAnew(t *testing.T) {
	w := newWorld(t)
	w.site("a.example", "93.184.216.1", false, func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.grants["p"] = []string{"other.example"}
		w.mu.Unlock()
		http.Redirect(rw, r, "/again", http.StatusFound)
	})
	if r := w.ask("GET", "http://a.example/"); r.errorType() != "grant_denied" || *r.Hops != 1 {
		t.Errorf("got %s after %d hops, want grant_denied after 1", r.errorType(), *r.Hops)
	}
}

func escape(s string) string {
	return strings.NewReplacer("%", "%25", ":", "%3A", "/", "%2F", "?", "%3F", "=", "%3D", "[", "%5B", "&", "%26").Replace(s)
}
