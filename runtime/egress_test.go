package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// proxySocket makes the folder with a socket in it, where h is served in place of egress-proxy.
func proxySocket(t *testing.T, h http.HandlerFunc) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rumi")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "rumi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	t.Cleanup(func() {
		server.Close()
		os.RemoveAll(dir)
	})
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "rumi.sock"), 0o666)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unaware runs testdata/pack/unaware.py in a container without a network, with or without an egress socket.
func unaware(t *testing.T, egress string, urls ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	engine, err := sandbox.Connect(ctx, sandbox.Config{Instance: testInstance})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	pack, err := filepath.Abs("testdata/pack")
	if err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{
		Kind: sandbox.Pack, Name: strings.ToLower(rand.Text()), Image: packImage,
		Command: append([]string{"rumi-runtime", "run", "unaware.py"}, urls...),
		Mounts:  []sandbox.Mount{{Source: pack, Target: "/pack"}},
	}
	if egress != "" {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: egress, Target: "/run/rumi/egress"})
		spec.Env = map[string]string{"RUMI_EGRESS_SOCKET": "/run/rumi/egress/rumi.sock"}
	}
	c, err := engine.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Remove(context.WithoutCancel(ctx), c.ID)
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Wait(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line, err := range engine.Logs(ctx, c.ID, sandbox.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line.Text)
	}
	return lines
}

// In a container without a network, the standard library reaches the egress socket by the proxy variables.
func TestUnawareCodeReachesTheProxy(t *testing.T) {
	dir := proxySocket(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, "asked for ", r.URL)
	})
	got := unaware(t, dir, "http://api.example/x", "https://api.example/y")
	want := []string{
		"proxies ['http://127.0.0.1:3128', 'localhost,127.0.0.1,::1']",
		"http://api.example/x 200 asked for http://api.example/x",
		"https://api.example/y Tunnel connection failed: 403 Forbidden",
	}
	if !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
}

// Handlers and packs without an egress socket are told of no proxy.
func TestNoProxyWithoutSocket(t *testing.T) {
	got := unaware(t, "", "http://127.0.0.1:3128/")
	if len(got) != 2 || got[0] != "proxies ['none']" || !strings.Contains(got[1], "Connection refused") {
		t.Errorf("it said %q", got)
	}
}

func TestProxyEnviron(t *testing.T) {
	got := proxyEnviron([]string{"A=1", "HTTP_PROXY=http://elsewhere", "no_proxy=*", "HTTP_PROXY_X=2", "B=3"})
	if len(got) != 12 || !slices.Equal(got[:3], []string{"A=1", "HTTP_PROXY_X=2", "B=3"}) || !slices.Contains(got, "HTTP_PROXY=http://127.0.0.1:3128") || !slices.Contains(got, "no_proxy=localhost,127.0.0.1,::1") || !slices.Contains(got, "all_proxy=http://127.0.0.1:3128") {
		t.Errorf("%q", got)
	}
	if got, err := withProxy([]string{"A=1"}, ""); err != nil || !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("without a socket: %q, %v", got, err)
	}
}

func TestAuthorities(t *testing.T) {
	got := withAuthorities([]string{"A=1", "SSL_CERT_FILE=/image/s", "SSL_CERT_FILE_X=2"}, "/ca.pem")
	want := []string{"A=1", "SSL_CERT_FILE_X=2", "SSL_CERT_FILE=/ca.pem", "REQUESTS_CA_BUNDLE=/ca.pem", "CURL_CA_BUNDLE=/ca.pem",
		"GIT_SSL_CAINFO=/ca.pem", "NODE_EXTRA_CA_CERTS=/ca.pem"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := withAuthorities([]string{"SSL_CERT_FILE=/image/s"}, ""); !slices.Equal(got, []string{"SSL_CERT_FILE=/image/s"}) {
		t.Errorf("without a bundle: %q", got)
	}
}

// A relayed connection carries both ways, passes half an end on, and ends where the socket is gone.
func TestRelay(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				all, _ := io.ReadAll(c) // up to the client's end
				fmt.Fprintf(c, "%d bytes", len(all))
				c.Close()
			}()
		}
	}()
	front, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			go relay(c, socket)
		}
	}()
	t.Cleanup(func() { front.Close() })
	talk := func() string {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(make([]byte, 1<<20))
		c.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
	if got := talk(); got != "1048576 bytes" {
		t.Errorf("%q", got)
	}
	l.Close()
	if got := talk(); got != "" {
		t.Errorf("without a socket: %q", got)
	}
}
