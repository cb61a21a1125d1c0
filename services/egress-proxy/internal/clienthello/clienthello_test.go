package clienthello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// recorded is a ClientHello as crypto/tls writes it.
func recorded(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		tls.Client(client, cfg).Handshake()
		client.Close()
	}()
	records, _, err := Read(server)
	server.Close()
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// split puts a hello into records of at most n bytes.
func split(hello []byte, n int) (out []byte) {
	for message := hello[recordHeader:]; len(message) > 0; {
		m := min(n, len(message))
		out = append(out, typeHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(m))
		out, message = append(out, message[:m]...), message[m:]
	}
	return out
}

func withExtensions(extensions string) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(len(extensions)))
	return append(body, extensions...)
}

func TestRead(t *testing.T) {
	hello := recorded(t, &tls.Config{ServerName: "api.example"})
	for name, c := range map[string]struct {
		in   []byte
		name string
		err  error
	}{
		"as it is":          {hello, "api.example", nil},
		"TLS 1.2":           {recorded(t, &tls.Config{ServerName: "old.example", MaxVersion: tls.VersionTLS12}), "old.example", nil},
		"no name":           {recorded(t, &tls.Config{InsecureSkipVerify: true}), "", nil},
		"address":           {recorded(t, &tls.Config{ServerName: "127.0.0.1"}), "", nil},
		"small records":     {split(hello, 7), "api.example", nil},
		"a byte a record":   {split(hello, 1), "api.example", nil},
		"HTTP":              {[]byte("GET / HTTP/1.1\r\n\r\n"), "", ErrNotTLS},
		"SSL 2":             {[]byte{0x80, 0x2e, 1, 3, 1}, "", ErrNotTLS},
		"nothing":           {nil, "", io.EOF},
		"half":              {hello[:len(hello)/2], "", io.ErrUnexpectedEOF},
		"an alert":          {[]byte{21, 3, 1, 0, 2, 1, 0}, "", ErrNotTLS},
		"then an alert":     {append(split(hello, 7)[:12], 21, 3, 1, 0, 2, 1, 0), "", ErrMalformed},
		"empty record":      {[]byte{22, 3, 1, 0, 0}, "", ErrMalformed},
		"another message":   {[]byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, "", ErrMalformed},
		"more in a record":  {append([]byte{22, 3, 1, 0, 5, 1, 0, 0, 0}, 9), "", ErrMalformed},
		"huge record":       {[]byte{22, 3, 1, 0xff, 0xff}, "", ErrTooLarge},
		"huge message":      {[]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, "", ErrTooLarge},
		"records for ever":  {split(append(append([]byte{22, 3, 1, 0, 0}, 1, 0, 0x3f, 0xfc), make([]byte, 0x3ff0)...), 1), "", ErrTooLarge},
		"empty hello":       {[]byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, "", ErrMalformed},
		"another version 2": {[]byte{22, 2, 0, 0, 4, 1, 0, 0, 0}, "", ErrNotTLS},
	} {
		for how, r := range map[string]io.Reader{"at once": bytes.NewReader(c.in), "byte by byte": iotest.OneByteReader(bytes.NewReader(c.in))} {
			records, got, err := Read(r)
			if got != c.name || !errors.Is(err, c.err) || (c.err == nil && !bytes.Equal(records, c.in)) {
				t.Errorf("%s, %s: %q, %v, want %q, %v", name, how, got, err, c.name, c.err)
			}
		}
	}
}

func TestParse(t *testing.T) {
	const one = "\x00\x00\x00\x06\x00\x04\x00\x00\x01a"
	for name, c := range map[string]struct {
		body []byte
		name string
		err  error
	}{
		"one name":        {withExtensions(one), "a", nil},
		"after another":   {withExtensions("\x00\x17\x00\x00" + one), "a", nil},
		"no extensions":   {withExtensions("")[:2+32+7], "", nil},
		"none in it":      {withExtensions(""), "", nil},
		"twice":           {withExtensions(one + one), "", ErrMalformed},
		"two names":       {withExtensions("\x00\x00\x00\x0a\x00\x08\x00\x00\x01a\x00\x00\x01b"), "", ErrMalformed},
		"other type":      {withExtensions("\x00\x00\x00\x06\x00\x04\x01\x00\x01a"), "", ErrMalformed},
		"empty name":      {withExtensions("\x00\x00\x00\x05\x00\x03\x00\x00\x00"), "", ErrMalformed},
		"empty list":      {withExtensions("\x00\x00\x00\x02\x00\x00"), "", ErrMalformed},
		"empty extension": {withExtensions("\x00\x00\x00\x00"), "", ErrMalformed},
		"name too short":  {withExtensions("\x00\x00\x00\x06\x00\x04\x00\x00\x02a"), "", ErrMalformed},
		"after the list":  {withExtensions("\x00\x00\x00\x07\x00\x04\x00\x00\x01ab"), "", ErrMalformed},
		"after all":       {append(withExtensions(one), 0), "", ErrMalformed},
		"cut":             {withExtensions(one)[:20], "", ErrMalformed},
	} {
		if got, err := Parse(c.body); got != c.name || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v, want %q, %v", name, got, err, c.name, c.err)
		}
	}
}

// theirs is the name that crypto/tls reads.
func theirs(hello []byte) (name string, ok bool) {
	stop := errors.New("seen")
	conn := tls.Server(oneSided{Reader: bytes.NewReader(hello)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = i.ServerName, true
		return nil, stop
	}})
	conn.HandshakeContext(context.Background())
	return name, ok
}

// oneSided is a connection that can be read only.
type oneSided struct {
	io.Reader
	net.Conn
}

func (c oneSided) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (oneSided) Write(p []byte) (int, error) { return len(p), nil }
func (oneSided) Close() error                { return nil }

// What crypto/tls understands is understood as the same name, whatever the bytes.
func FuzzRead(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		records, name, err := Read(bytes.NewReader(in))
		if len(records) > MaxSize || !bytes.HasPrefix(in, records) || err != nil && name != "" {
			t.Fatalf("read %d bytes, the name %q, %v; want a beginning of the input, and no name with an error", len(records), name, err)
		}
		if err != nil {
			return
		}
		if other, ok := theirs(records); ok && other != strings.TrimSuffix(name, ".") && other != name {
			t.Fatalf("read the name %q where crypto/tls reads %q, want the same", name, other)
		}
	})
}
