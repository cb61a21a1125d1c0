// Package clienthello reads the first message of a TLS connection (RFC 8446, section 4.1.2) and gives the server name in it (SNI,
// RFC 6066, section 3). It takes no part in the connection: nothing is decrypted.
//
// It is there for tunnels. CONNECT names the granted host, but many hosts share one address at a CDN, and the server chooses among them
// by the server name: a pack that is granted one of them could reach any (domain fronting). So the server name must be the
// host of the CONNECT. An ambiguous hello is refused, since the server might read another name in it than we do.
package clienthello

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	// MaxSize is the longest run of records, in bytes, that a hello may take. One with post-quantum keys has 2 KiB.
	MaxSize = 16 << 10

	recordHeader    = 5
	maxRecord       = 16 << 10 // RFC 8446, section 5.1
	messageHeader   = 4
	typeHandshake   = 22
	typeClientHello = 1
	extServerName   = 0
	nameTypeHost    = 0
)

// The errors of Read and Parse.
var (
	ErrNotTLS    = errors.New("read ClientHello: not TLS")
	ErrTooLarge  = errors.New("read ClientHello: too large")
	ErrMalformed = errors.New("read ClientHello: malformed")
)

// Read reads records from r until they have a whole ClientHello, and not a byte more: what follows is for the server. It gives the
// records as they came, to be passed on, also with an error, and the server name, "" if there is none. The error is
// ErrNotTLS, ErrTooLarge, ErrMalformed or r's own. The caller must bound the time: a client may send a byte an hour.
func Read(r io.Reader) (records []byte, serverName string, err error) {
	var message []byte
	for {
		start := len(records)
		if records, err = appendFrom(records, r, 1); err != nil {
			return records, "", err
		}
		if records[start] != typeHandshake {
			if start > 0 {
				return records, "", ErrMalformed
			}
			return records, "", ErrNotTLS
		}
		if records, err = appendFrom(records, r, recordHeader-1); err != nil {
			return records, "", err
		}
		header := records[start:]
		if header[1] != 3 {
			return records, "", ErrNotTLS
		}
		length := int(binary.BigEndian.Uint16(header[3:]))
		switch {
		case length == 0:
			return records, "", ErrMalformed
		case length > maxRecord, len(records)+length > MaxSize:
			return records, "", ErrTooLarge
		}
		body := len(records)
		if records, err = appendFrom(records, r, length); err != nil {
			return records, "", err
		}
		message = append(message, records[body:]...)
		if len(message) < messageHeader {
			continue
		}
		if message[0] != typeClientHello {
			return records, "", ErrMalformed
		}
		want := messageHeader + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
		switch {
		case want > MaxSize:
			return records, "", ErrTooLarge
		case len(message) > want: // a client sends nothing else before the server has answered, so this isn't a hello that servers read alike
			return records, "", ErrMalformed
		case len(message) == want:
			serverName, err = Parse(message[messageHeader:])
			return records, serverName, err
		}
	}
}

func appendFrom(dst []byte, r io.Reader, n int) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, n)...)
	m, err := io.ReadFull(r, dst[start:])
	if errors.Is(err, io.EOF) && start > 0 {
		err = io.ErrUnexpectedEOF
	}
	return dst[:start+m], err
}

// Parse reads the body of a ClientHello message and gives the server name, "" if there is none. The error is ErrMalformed: for a
// message that breaks the format, and for an extension that is there twice or a list of several names, of which servers may
// go by the one or the other.
func Parse(body []byte) (serverName string, err error) {
	in := input(body)
	if !in.skip(2+32) || // version, random
		in.vector(1) == nil || in.vector(2) == nil || in.vector(1) == nil { // session, cipher suites, compression
		return "", ErrMalformed
	}
	if len(in) == 0 {
		return "", nil // extensions may be missing before TLS 1.3
	}
	extensions := in.vector(2)
	if extensions == nil || len(in) > 0 {
		return "", ErrMalformed
	}
	seen := make(map[uint16]bool)
	for len(*extensions) > 0 {
		kind, ok := extensions.uint16()
		data := extensions.vector(2)
		if !ok || data == nil || seen[kind] {
			return "", ErrMalformed
		}
		seen[kind] = true
		if kind == extServerName {
			if serverName, err = parseServerName(data); err != nil {
				return "", err
			}
		}
	}
	return serverName, nil
}

// parseServerName reads the data of a server_name extension, which must have exactly one name, of type host_name.
func parseServerName(data *input) (string, error) {
	list := data.vector(2)
	if list == nil || len(*data) > 0 || len(*list) == 0 || (*list)[0] != nameTypeHost {
		return "", ErrMalformed
	}
	list.skip(1)
	name := list.vector(2)
	if name == nil || len(*name) == 0 || len(*list) > 0 {
		return "", ErrMalformed
	}
	return string(*name), nil
}

// input is the bytes that are left to read.
type input []byte

func (in *input) skip(n int) bool {
	if len(*in) < n {
		return false
	}
	*in = (*in)[n:]
	return true
}

func (in *input) uint16() (uint16, bool) {
	if len(*in) < 2 {
		return 0, false
	}
	v := binary.BigEndian.Uint16(*in)
	*in = (*in)[2:]
	return v, true
}

// vector reads a vector of TLS: its length in width bytes, then so many bytes. It is nil if there are fewer.
func (in *input) vector(width int) *input {
	if len(*in) < width {
		return nil
	}
	n := 0
	for _, b := range (*in)[:width] {
		n = n<<8 | int(b)
	}
	*in = (*in)[width:]
	if len(*in) < n {
		return nil
	}
	v := (*in)[:n]
	*in = (*in)[n:]
	return &v
}
