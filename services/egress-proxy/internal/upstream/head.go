package upstream

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// head is an answer's status line and fields.
type head struct {
	status    int
	fields    []Field
	keepAlive bool // the connection stays open, unless
	closes    bool // the server says that it closes it
	chunked   bool
	length    int64 // -1 for not given
	ambiguous bool  // both chunked and a length: the server may mean another end of the body
}

// parseHead reads a header block that readHead made. What is ambiguous is refused: the proxy and the pack must not take the same bytes for
// different answers.
func parseHead(text string) (*head, error) {
	line, rest := cutLine(text)
	h := &head{length: -1}
	if err := h.statusLine(line); err != nil {
		return nil, err
	}
	h.fields = make([]Field, 0, strings.Count(rest, "\n"))
	for rest != "" {
		line, rest = cutLine(rest)
		if err := h.field(line); err != nil {
			return nil, err
		}
	}
	for i := range h.fields {
		f := &h.fields[i]
		if !httpguts.ValidHeaderFieldValue(f.Value) {
			return nil, broken("Server sent an invalid header")
		}
		if err := h.frame(f); err != nil {
			return nil, err
		}
		if !utf8.ValidString(f.Value) {
			f.Value = fromLatin1(f.Value)
		}
	}
	h.ambiguous = h.chunked && h.length >= 0
	return h, nil
}

// statusLine reads the first line of a head (RFC 9112, section 4).
func (h *head) statusLine(line string) error {
	version, status, ok := strings.Cut(line, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" || !ok || len(status) < 3 || len(status) > 3 && status[3] != ' ' {
		return broken("Server does not speak HTTP/1.1")
	}
	n, err := strconv.ParseUint(status[:3], 10, 16)
	if err != nil || n < 100 {
		return broken("Server sent an invalid status")
	}
	h.status = int(n)
	h.keepAlive = version == "HTTP/1.1"
	return nil
}

// field reads a line of a head after the first. An indented one continues the field before it, with one space in between (obsolete folding, RFC
// 9112, section 5.2).
func (h *head) field(line string) error {
	if line[0] == ' ' || line[0] == '\t' {
		if len(h.fields) == 0 {
			return broken("Server sent an invalid header")
		}
		last := &h.fields[len(h.fields)-1]
		last.Value = strings.Trim(last.Value+" "+strings.Trim(line, " \t"), " ")
		return nil
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !httpguts.ValidHeaderFieldName(name) {
		return broken("Server sent an invalid header")
	}
	h.fields = append(h.fields, Field{name, strings.Trim(value, " \t")})
	return nil
}

// frame takes over what a field says of the answer's end and of what follows it.
func (h *head) frame(f *Field) error {
	switch len(f.Name) {
	case len("Connection"):
		if strings.EqualFold(f.Name, "Connection") {
			for token := range strings.SplitSeq(f.Value, ",") {
				switch strings.ToLower(strings.Trim(token, " \t")) {
				case "close":
					h.closes = true
				case "keep-alive":
					h.keepAlive = true
				}
			}
		}
	case len("Content-Length"):
		if strings.EqualFold(f.Name, "Content-Length") {
			n, err := strconv.ParseUint(f.Value, 10, 63)
			if err != nil || h.length >= 0 && h.length != int64(n) {
				return broken("Server sent an invalid Content-Length")
			}
			h.length = int64(n)
		}
	case len("Transfer-Encoding"):
		if strings.EqualFold(f.Name, "Transfer-Encoding") {
			if !strings.EqualFold(f.Value, "chunked") || h.chunked {
				return broken("Server sent an unsupported Transfer-Encoding")
			}
			h.chunked = true
		}
	}
	return nil
}

// cutLine splits off the first line of text, without its end.
func cutLine(text string) (line, rest string) {
	line, rest, _ = strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// fromLatin1 reads bytes as ISO 8859-1, which header values were before they were UTF-8.
func fromLatin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}
