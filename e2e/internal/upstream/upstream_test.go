package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const host = "forecast.rumi.test"

func TestServe(t *testing.T) {
	dir := t.TempDir()
	if err := MakeCertificates(dir, host, time.Now()); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, listener, dir) }()

	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
		},
	}}
	for _, c := range []struct {
		path, authorization string
		status              int
		body                string
	}{
		{"/v1/today", "Bearer k", 200, "Kyoto"},
		{"/v1/today", "", 401, "a key is needed"},
		{"/", "Bearer k", 404, "no such place"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.authorization != "" {
			request.Header.Set("Authorization", c.authorization)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != c.status || !strings.Contains(string(body), c.body) {
			t.Errorf("%s with %q: %d %s (%v), want %d with %q", c.path, c.authorization, response.StatusCode, body, err, c.status, c.body)
		}
	}
	client.CloseIdleConnections()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}

	seen, err := Seen(dir)
	if err != nil || len(seen) != 3 {
		t.Fatalf("saw %+v, %v; want three requests", seen, err)
	}
	if want := (Request{"GET", host, "/v1/today", Fingerprint("Bearer k")}); seen[0] != want {
		t.Errorf("saw %+v, want %+v", seen[0], want)
	}
}

func TestCertificatesAreKeptWhileTheyAreGood(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	read := func(when time.Time) string {
		if err := MakeCertificates(dir, host, when); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, CAFile))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := read(now)
	if read(now.Add(28*24*time.Hour)) != first {
		t.Error("certificates with two days left were replaced, want them kept")
	}
	if read(now.Add(29*24*time.Hour+time.Hour)) == first {
		t.Error("certificates with less than a day left were kept, want new ones")
	}
}
