package egress

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What a pack may not say in a header it may not say behind a body either, announced or not: a server may take it for a
// header, and what follows for another request.
func TestTrailersSayNothingOfTheConnection(t *testing.T) {
	w := newWorld(t)
	saw := func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(rw, r.Trailer)
	}
	w.site("x.example", "93.184.216.34", false, saw)
	w.site2("two.example", "93.184.216.35", saw)
	path := w.socket()
	const hostile = "Host: evil\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nConnection: X-Named\r\nX-Named: 1\r\nProxy-Authorization: z\r\nUpgrade: h2c\r\nTE: trailers\r\n"
	for _, to := range []string{"http://x.example", "https://two.example"} {
		const want = "map[X-Sum:[7]]"
		for _, announced := range []string{"X-Sum", "X-Sum, Host, Proxy-Authorization, Connection"} {
			c := dialSocket(t, path)
			fmt.Fprintf(c, "POST %s/ HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n%s\r\n",
				to, to[strings.LastIndex(to, "/")+1:], announced, hostile)
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(r.Body); err != nil || r.StatusCode != 200 || string(body) != want {
				t.Errorf("%s, announced %q: %d %s, %v; want %s", to, announced, r.StatusCode, body, err, want)
			}
		}
	}
}

func TestTrailersOfServersSayNothingOfTheConnection(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "80", script(t, func(string) string {
		return "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nTransfer-Encoding: chunked\r\nProxy-Authenticate: Basic\r\nKeep-Alive: x\r\n\r\n"
	}))
	r, err := w.browser().Get("http://x.example/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if got := fmt.Sprintf("%s %v", body, r.Trailer); err != nil || got != "abc map[X-Sum:[7]]" {
		t.Errorf("got %s, %v; want abc with the trailer X-Sum 7", got, err)
	}
}
