package client

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// writeRequest writes a request that takes accepts. It closes the body. An error says nothing of how much was written.
//
// It is not http.Request.Write, which prepares for bodies of unknown length, trailers and proxies, sorts the headers and formats the first line by
// reflection: that was a twentieth of the gateway's processor time. What a client of the gateway chooses may be in path, method and header values, so each is
// checked here: a line end in one of them would be a second request.
func writeRequest(out *bufio.Writer, r *http.Request) error {
	defer closeBody(r)
	host, uri := cmp.Or(r.Host, r.URL.Host), r.URL.RequestURI()
	if err := checkRequest(r, host, uri); err != nil {
		return err
	}
	writeAll(out, r.Method, " ", uri, " HTTP/1.1\r\nHost: ", host, "\r\n")
	for name, values := range r.Header {
		if ownHeader(name) {
			continue
		}
		for _, value := range values {
			writeAll(out, name, ": ", value, "\r\n")
		}
	}
	length := r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		length = 0
	}
	if length > 0 || sendsLength(r.Method) {
		writeAll(out, "Content-Length: ", strconv.FormatInt(length, 10), "\r\n")
	}
	writeAll(out, "\r\n")
	return writeBody(out, r.Body, length)
}

// ownHeader says whether writeRequest itself writes the header, so that no second one can say something else.
func ownHeader(name string) bool { return name == "Host" || name == "Content-Length" }

// sendsLength says whether a request without a body has to say so (RFC 9110, section 8.6).
func sendsLength(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// writeAll writes texts. The error of a bufio.Writer stays until it is flushed.
func writeAll(out *bufio.Writer, texts ...string) {
	for _, s := range texts {
		_, _ = out.WriteString(s)
	}
}

// checkRequest refuses what would end a line or a header.
func checkRequest(r *http.Request, host, uri string) error {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a method is a token, too
		return fmt.Errorf("the method %q is none", r.Method)
	}
	if !strings.HasPrefix(uri, "/") || strings.ContainsFunc(uri, endsPath) {
		return fmt.Errorf("the path %q is none", uri)
	}
	if !httpguts.ValidHostHeader(host) {
		return fmt.Errorf("the host %q is none", host)
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("the header name %q is none", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("the header %s has a control character in it", name)
			}
		}
	}
	return nil
}

// endsPath says whether a character can't be in the first line's path.
func endsPath(c rune) bool { return c <= ' ' || c == 0x7f }

// writeBody writes as much as was announced.
func writeBody(out *bufio.Writer, body io.Reader, length int64) error {
	if length == 0 {
		return nil
	}
	n, err := io.Copy(out, io.LimitReader(body, length+1))
	if err == nil && n != length {
		err = fmt.Errorf("the body has %d bytes, %d were announced", n, length)
	}
	return err
}
