package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// HomeFile is the file with the home id in the directory of an identity.
const HomeFile = "home_id"

const (
	homeLen = 32 // lowercase hex digits: 128 random bits
	homeURN = "urn:rumi:home:"
)

// NewHome makes the id of a new Rumi home: 32 random lowercase hex digits. Only init calls it, once for each home: containers, socket folders
// and certificates have the id on them, so that two homes on one machine don't touch each other's.
func NewHome() string {
	id := make([]byte, homeLen/2)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}

// ReadHome reads a home id from a file, which must have nothing else in it but one newline at the end. The error names the path.
func ReadHome(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold the start up
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, homeLen+2))
	if err != nil {
		return "", err
	}
	home := strings.TrimSuffix(string(data), "\n")
	if !ValidHome(home) {
		return "", fmt.Errorf("%s holds no home id (want %d lowercase hex digits)", path, homeLen)
	}
	return home, nil
}

// ValidHome says whether s has the form of a home id: 32 lowercase hex digits.
func ValidHome(s string) bool {
	return len(s) == homeLen && strings.Trim(s, "0123456789abcdef") == ""
}

// homeURI is the URI for a home in certificates: urn:rumi:home:ID.
func homeURI(home string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: strings.TrimPrefix(homeURN, "urn:") + home}
}

// OfHome says whether a URI of a certificate, or of a request for one, names the home with this id.
func OfHome(u *url.URL, home string) bool { return u.String() == homeURN+home }

// homeOf is the id of the home in which a certificate was issued.
func homeOf(cert *x509.Certificate) (string, error) {
	if cert != nil && len(cert.URIs) == 1 {
		if home, ok := strings.CutPrefix(cert.URIs[0].String(), homeURN); ok && ValidHome(home) {
			return home, nil
		}
	}
	return "", errors.New("a certificate of a service has exactly one URI, " + homeURN + "ID")
}
