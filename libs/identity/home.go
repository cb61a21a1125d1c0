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

// HomeFile is the file of an identity's directory that holds the home id.
const HomeFile = "home_id"

const (
	homeLen = 32 // lowercase hex digits: 128 random bits
	homeURN = "urn:rumi:home:"
)

// NewHome makes the id of a new Rumi home: 32 lowercase hex digits. Only `rumi init` makes one, once a home: containers,
// socket folders and certificates are known by it.
func NewHome() string {
	id := make([]byte, homeLen/2)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}

// ReadHome reads a home id from a file. The file may end in a newline and holds nothing else.
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

// ValidHome says whether s has the form of a home id.
func ValidHome(s string) bool {
	return len(s) == homeLen && strings.Trim(s, "0123456789abcdef") == ""
}

// homeURI is how a certificate names the home it was issued in.
func homeURI(home string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: strings.TrimPrefix(homeURN, "urn:") + home}
}

// homeOf is the home that a service's certificate was issued in.
func homeOf(cert *x509.Certificate) (string, error) {
	if cert != nil && len(cert.URIs) == 1 {
		if home, ok := strings.CutPrefix(cert.URIs[0].String(), homeURN); ok && ValidHome(home) {
			return home, nil
		}
	}
	return "", errors.New("a certificate of a service has exactly one URI, " + homeURN + "ID")
}
