package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// proxyAddress is on the container's own loopback, which nobody else reaches.
	proxyAddress = "127.0.0.1:3128"
	maxRelayed   = 256              // connections at once; the next one waits
	afterEnd     = 30 * time.Second // how long one direction may still take when the other has ended
)

// withProxy makes the pack's egress socket a proxy that unmodified code finds, and gives environ with the variables that
// such code looks at. Without a socket, environ is given as it is, and so it is with an error.
func withProxy(environ []string, socket string) ([]string, error) {
	if socket == "" {
		return environ, nil
	}
	l, err := net.Listen("tcp4", proxyAddress)
	if err != nil {
		return environ, fmt.Errorf("offer a proxy on loopback: %w", err)
	}
	go relayAll(l, socket)
	return proxyEnviron(environ), nil
}

// proxyEnviron is environ with the proxy's variables in place of any that are there.
func proxyEnviron(environ []string) []string {
	const proxy, direct = "http://" + proxyAddress, "localhost,127.0.0.1,::1"
	return setAll(environ,
		"HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "ALL_PROXY="+proxy, "NO_PROXY="+direct,
		"http_proxy="+proxy, "https_proxy="+proxy, "all_proxy="+proxy, "no_proxy="+direct, // curl knows HTTP_PROXY so only
		"NODE_USE_ENV_PROXY=1", // Node looks at the others only then
	)
}

// withAuthorities gives environ with the variables by which tools find the certificate authorities in bundle. A tunnel is
// TLS between the program and its server, so that it is the program that must know them.
func withAuthorities(environ []string, bundle string) []string {
	if bundle == "" {
		return environ
	}
	return setAll(environ,
		"SSL_CERT_FILE="+bundle,       // OpenSSL and what stands on it: Python's ssl, httpx; Go
		"REQUESTS_CA_BUNDLE="+bundle,  // requests, pip, botocore
		"CURL_CA_BUNDLE="+bundle,      // curl
		"GIT_SSL_CAINFO="+bundle,      // git
		"NODE_EXTRA_CA_CERTS="+bundle, // Node
	)
}

// setAll is environ with variables in place of those of the same names.
func setAll(environ []string, variables ...string) []string {
	kept := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(variables, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	})
	return append(kept, variables...)
}

// relayAll passes every connection of l on to the socket, for as long as the process lives.
func relayAll(l net.Listener, socket string) {
	places := make(chan struct{}, maxRelayed)
	for {
		places <- struct{}{}
		client, err := l.Accept()
		if err != nil { // out of descriptors, which are the program's to give back
			<-places
			fmt.Fprintln(os.Stderr, "rumi-runtime: accept for the proxy:", err)
			time.Sleep(time.Second)
			continue
		}
		go func() {
			defer func() { <-places }()
			relay(client, socket)
		}()
	}
}

// relay passes one connection on, each way until its end. The proxy's socket may be gone for a moment when another replica
// takes over; clients see that as a connection that ends at once.
func relay(client net.Conn, socket string) {
	defer client.Close()
	proxy, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer proxy.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(proxy, client)
	}()
	pass(client, proxy)
	client.SetReadDeadline(time.Now().Add(afterEnd))
	<-done
}

// pass copies until from ends, and passes the end on.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
