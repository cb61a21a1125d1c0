package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/servercert/servercerttest"
)

// secured is a world whose gateway speaks HTTPS.
type secured struct {
	*world
	ca        *servercerttest.Authority
	cert, key string // the files
}

func newSecured(t *testing.T) *secured {
	t.Helper()
	dir := t.TempDir()
	s := &secured{ca: servercerttest.NewAuthority(t), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	cert, key := s.issue("one.example")
	if err := errors.Join(os.WriteFile(s.cert, cert, 0o600), os.WriteFile(s.key, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.world = newWorld(t, map[string]string{"RUMI_TLS_CERT_FILE": s.cert, "RUMI_TLS_KEY_FILE": s.key})
	return s
}

func (s *secured) issue(name string) (cert, key []byte) {
	return s.ca.Issue(name, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
}

func (s *secured) config() *tls.Config { return &tls.Config{RootCAs: s.ca.Pool()} }

// client makes a connection of its own for each request.
func (s *secured) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: s.config(), ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}

func (s *secured) request(t testing.TB, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.address+target, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	return r
}

func (s *secured) send(t testing.TB, r *http.Request) *http.Response {
	t.Helper()
	response, err := s.client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestTLS(t *testing.T) {
	s := newSecured(t)
	response := s.send(t, s.request(t, "GET", "/api/packs", nil))
	if response.Proto != "HTTP/1.1" || response.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("answered by %s with %v, want HTTP/1.1 without Strict-Transport-Security", response.Proto, response.Header)
	}
	if got := readReply(t, response); got.status != 200 || got.seen(t).Address != "127.0.0.1" {
		t.Errorf("answered %d %s, want 200 and the client's address", got.status, got.raw)
	}
	t.Run("a change from a browser", func(t *testing.T) {
		r := s.request(t, "POST", "/api/packs/x/reject", strings.NewReader("{}"))
		r.Header.Set("Origin", "https://"+s.address)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		if got := readReply(t, s.send(t, r)); got.status != 200 {
			t.Errorf("answered %d %s, want 200", got.status, got.raw)
		}
	})
	t.Run("an upload", func(t *testing.T) {
		r := s.request(t, "POST", "/api/packs/import", io.LimitReader(endless{}, 64<<20))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		if got := readReply(t, s.send(t, r)); got.status != 200 || string(got.Data) != fmt.Sprint(64<<20) {
			t.Errorf("answered %d %s, want 200 and its length", got.status, got.raw)
		}
	})
	t.Run("a stream", func(t *testing.T) {
		lines := bufio.NewScanner(s.send(t, s.request(t, "GET", "/api/containers/x/logs?follow=true", nil)).Body)
		for i := 1; i <= 2; i++ { // each is here before the next exists
			if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) || !lines.Scan() {
				t.Fatalf("event %d is %q, %v", i, lines.Text(), lines.Err())
			}
			more <- struct{}{}
		}
	})
	t.Run("an old version of TLS", func(t *testing.T) {
		cfg := s.config()
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if conn, err := tls.Dial("tcp", s.address, cfg); err == nil {
			conn.Close()
			t.Error("TLS 1.1 was accepted")
		}
	})
	t.Run("what is no request", func(t *testing.T) {
		conn, err := tls.Dial("tcp", s.address, s.config())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		wantFailure(t, readReply(t, response), 400, "Invalid HTTP request: the request line or a header can't be read")
	})
	t.Run("plain HTTP", func(t *testing.T) {
		for _, request := range [][]byte{head("GET /api/packs"), append(head("POST /api/packs/scan", "Content-Length: 100000"), make([]byte, 100000)...)} {
			got := s.raw(t, "GET", request)
			wantFailure(t, got, 400, "HTTPS required: this port speaks HTTPS: write https:// instead of http://")
			if got.Code != "https_required" {
				t.Errorf("the code is %q, want https_required", got.Code)
			}
		}
	})
}

// TestTLSRotation: the pair is replaced again and again, certificate and key at different moments, while clients connect. No request fails, and
// a pair that doesn't fit is named while the old one serves.
func TestTLSRotation(t *testing.T) {
	s := newSecured(t)
	var failed, served atomic.Int64
	done := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			client := s.client()
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
				}
				response, err := client.Do(s.request(t, "GET", "/healthz", nil))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
				if err != nil || response.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("a request failed: %v, %v", err, response)
				}
				served.Add(1)
			}
		})
	}
	for i, name := range []string{"two.example", "three.example"} {
		cert, key := s.issue(name)
		replace(t, s.cert, cert)
		s.until(t, "the readiness names the key that doesn't fit", func() bool {
			check := s.check("TLS certificate")
			return strings.Contains(check, "not that of the first certificate") && strings.Contains(check, s.key)
		})
		replace(t, s.key, key)
		s.until(t, "the new certificate is shown", func() bool { return s.shown(t) == name })
		if i == 0 && s.check("TLS certificate") != "" {
			t.Errorf("the readiness is %q, want none", s.check("TLS certificate"))
		}
	}
	close(done)
	load.Wait()
	if failed.Load() > 0 || served.Load() < 20 {
		t.Errorf("%d of %d requests failed, want none of at least 20", failed.Load(), served.Load())
	}
	response, err := http.Get("http://" + s.servers["gateway"].Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if metrics, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(metrics), "\nrumi_tls_certificate_expiry_timestamp_seconds ") {
		t.Errorf("the metrics lack the certificate's end: %v", err)
	}
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// check is what is wrong by the gateway's readiness, "" for nothing.
func (s *secured) check(name string) string {
	for _, c := range s.servers["gateway"].Readiness(s.t.Context()).Checks {
		if c.Name == name {
			return c.Detail
		}
	}
	return "no such check"
}

// shown is the name of the certificate that a new client gets.
func (s *secured) shown(t *testing.T) string {
	t.Helper()
	conn, err := tls.Dial("tcp", s.address, s.config())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func (s *secured) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s it isn't so that %s", what)
		}
	}
}

func TestTLSSettings(t *testing.T) {
	s := newSecured(t)
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cert, key, want string }{
		{s.cert, "", "belong together"},
		{"", s.key, "belong together"},
		{s.cert, garbage, "holds no key"},
		{garbage, s.key, "holds no certificate"},
		{"/none/cert.pem", s.key, "no such file"},
		{filepath.Dir(s.cert), s.key, "is a folder"},
	} {
		err := serveTLS(s.servers["gateway"].Runtime, config{TLSCertFile: c.cert, TLSKeyFile: c.key})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "RUMI_TLS_CERT_FILE") {
			t.Errorf("%q, %q: %v; want %q and the setting's name", c.cert, c.key, err, c.want)
		}
	}
}
