package main

import (
	"strings"
	"testing"
)

// What net/http refuses before any handler is answered like the rest: in the envelope, with a request id.
func TestRequestsThatAreNone(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		request, text, code string
		status              int
	}{
		"no HTTP":             {"hello\r\n\r\n", "Invalid HTTP request: the request line or a header can't be read", "invalid_http", 400},
		"TLS":                 {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "Invalid HTTP request: the request line or a header can't be read", "invalid_http", 400},
		"no Host":             {"GET /api/packs HTTP/1.1\r\n\r\n", "Invalid HTTP request: missing required Host header", "invalid_http", 400},
		"two Hosts":           {"GET /api/packs HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Invalid HTTP request: the request line or a header can't be read", "invalid_http", 400},
		"header without name": {"GET /api/packs HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "Invalid HTTP request: the request line or a header can't be read", "invalid_http", 400},
		"header of 100 KiB":   {"GET /api/packs HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", "Request header too large: at most 64 KiB", "header_too_large", 431},
		"expectation":         {"POST /api/packs/scan HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\nContent-Length: 0\r\n\r\n", "Expectation not supported: the only one is 100-continue", "unsupported_expectation", 417},
		"transfer encoding":   {"POST /api/packs/scan HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer encoding not supported: the only one is chunked", "unsupported_encoding", 501},
		"HTTP/3.0":            {"GET /api/packs HTTP/3.0\r\nHost: a\r\n\r\n", "HTTP version not supported: want HTTP/1.1", "unsupported_version", 505},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.raw(t, "GET", []byte(c.request))
			wantFailure(t, got, c.status, c.text)
			if got.Code != c.code {
				t.Errorf("code %q, want %q", got.Code, c.code)
			}
		})
	}
}

// A filter that can't be parsed must not vanish on its way: the answer would be everything.
func TestQueriesThatCanNotBeParsed(t *testing.T) {
	w := newWorld(t, nil)
	const semicolon, percent = "Invalid query: a semicolon joins no parameters; join them by & or write it as %3B", "Invalid query: a percent sign is no escape; write it as %25"
	for target, text := range map[string]string{
		"/api/packs/x/status?a=1;b=2": semicolon, "/api/packs/x/status?a=1;b": semicolon, "/api/packs?x=1&y;z=2": semicolon, "/api/packs?;": semicolon,
		"/api/packs?a=%zz": percent, "/api/packs?%=1": percent, "/api/packs?a=1&b=%f": percent,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			if method == "HEAD" {
				if got := w.status(t, method, target); got != 400 {
					t.Errorf("HEAD %s: %d, want 400", target, got)
				}
				continue
			}
			got := w.raw(t, method, head(method+" "+target))
			wantFailure(t, got, 400, text)
			if got.Code != "invalid_query" {
				t.Errorf("%s: the code is %q, want invalid_query", target, got.Code)
			}
		}
	}
	if got := w.do(t, "GET", "/api/packs?a=%3B%25&b=", nil, nil); got.status != 200 || !strings.HasSuffix(got.seen(t).URI, "?a=%3B%25&b=") {
		t.Errorf("a query that is right: %d %s; want 200, and the query unchanged", got.status, got.raw)
	}
}

func TestChallengeSaysWhatIsMissing(t *testing.T) {
	w := newWorld(t, nil)
	for value, want := range map[string]string{
		"-":             "Bearer",
		apiToken:        `Bearer error="invalid_request", error_description="want: Authorization: Bearer TOKEN"`,
		"Bearer":        `Bearer error="invalid_request", error_description="want: Authorization: Bearer TOKEN"`,
		"Basic x":       `Bearer error="invalid_request", error_description="want: Authorization: Bearer TOKEN"`,
		"Bearer  wrong": `Bearer error="invalid_token", error_description="no such token"`,
	} {
		got := w.do(t, "GET", "/api/packs", nil, map[string]string{"Authorization": value})
		wantFailure(t, got, 401, "Unauthorized")
		if got := got.header.Get("WWW-Authenticate"); got != want {
			t.Errorf("%q: challenge %q, want %q", value, got, want)
		}
	}
}

// HEAD of a stream leaves nothing running, and what is asked next is answered at once.
func TestHeadOfFollowedLogs(t *testing.T) {
	w := newWorld(t, nil)
	for range 3 {
		if got := w.status(t, "HEAD", "/api/containers/x/logs?follow=true"); got != 200 {
			t.Fatalf("HEAD answered %d, want 200", got)
		}
		wantFailure(t, w.do(t, "GET", "/api/containers", nil, nil), 503, "Docker is required but not available")
	}
}
