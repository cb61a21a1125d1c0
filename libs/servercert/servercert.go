// Package servercert reads the certificate that a server shows to its clients, with its key: PEM files that may be replaced while the server
// runs. The gateway uses a File; init and the reconciler use Parse before they copy the operator's files.
package servercert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/reread"
)

const (
	// MaxFile bounds each file, in bytes. For comparison: a chain of three certificates with its key takes 8 KiB.
	MaxFile = 256 << 10

	// ProblemSuffix is added to the name of the certificate's file to get the name of its problem file. If the reconciler can't use the
	// operator's newest files it leaves the older copy there, and writes the reason into the problem file, in one line.
	ProblemSuffix = ".problem"

	// minRSA is the least length of an RSA key, in bits: clients refuse shorter ones.
	minRSA = 2048
)

// ReadFile returns the contents of a regular file of at most MaxFile bytes. It never quotes them in its errors: they may be a key.
func ReadFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold the start up
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return Contents(file)
}

// Contents is ReadFile for a file that is open.
func Contents(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder, want a PEM file", file.Name())
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file, want a PEM file", file.Name())
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", file.Name(), MaxFile)
	}
	return data, nil
}

// Parse makes a certificate with its key of two PEM files. cert has the server's certificate first, then those between it and the authority; key
// has the key, not encrypted. Both may be in one file. An error says in words what doesn't fit; it never quotes the files.
func Parse(cert, key []byte) (*tls.Certificate, error) {
	switch {
	case !has(cert, func(kind string) bool { return kind == "CERTIFICATE" }):
		return nil, errors.New("the certificate's file holds no certificate (PEM: it begins with -----BEGIN CERTIFICATE-----)")
	case has(key, func(kind string) bool { return kind == "ENCRYPTED PRIVATE KEY" }) || bytes.Contains(key, []byte("Proc-Type: 4,ENCRYPTED")):
		return nil, errors.New("the key is encrypted with a passphrase, which nobody could type at each start. Store it without: openssl pkey -in OLD -out NEW")
	case !has(key, func(kind string) bool { return kind == "PRIVATE KEY" || strings.HasSuffix(kind, " PRIVATE KEY") }):
		return nil, errors.New("the key's file holds no key (PEM: it begins with -----BEGIN PRIVATE KEY-----)")
	}
	if cut(cert) || cut(key) {
		return nil, errors.New("a certificate or the key is cut off at the end of its file")
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		// crypto/tls has two texts for it, one for another key and one for a key of another kind.
		if strings.Contains(err.Error(), "does not match") {
			return nil, errors.New("the key is not that of the first certificate. The server's own certificate must come first, before those of authorities")
		}
		return nil, fmt.Errorf("certificate and key can't be used: %w", err)
	}
	return &pair, weak(&pair)
}

// weak refuses keys that clients refuse.
func weak(pair *tls.Certificate) error {
	switch key := pair.Leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return fmt.Errorf("the RSA key has %d bits, want at least %d", bits, minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("the key is of the kind %T, want ECDSA, RSA or Ed25519", key)
	}
	return nil
}

// has says whether one of the PEM blocks is of a kind.
func has(data []byte, kind func(string) bool) bool {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return false
		}
		if kind(block.Type) {
			return true
		}
		data = rest
	}
}

// cut says whether the last block has a first line and no last one. A race: the operator's program may be writing the file at this moment.
func cut(data []byte) bool {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return bytes.Contains(data, []byte("-----BEGIN "))
		}
		data = rest
	}
}

// File is a certificate with its key in files that may be replaced. Use Open. It is safe for concurrent use.
type File struct {
	path string // of the certificate
	pair *reread.Value[*tls.Certificate]
}

// Open reads the pair. settings names both for errors and the log. If later versions of the files can't be used, the last good pair stays in
// force, and Ready and the log say why. That is so also while one of the two has been replaced, and the other not yet.
func Open(settings, certPath, keyPath string, log *slog.Logger) (*File, error) {
	read := func() (*tls.Certificate, error) {
		pair, err := readPair(certPath, keyPath)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", settings, err)
		}
		return pair, nil
	}
	pair, err := reread.Open([]string{certPath, keyPath}, read, func(pair *tls.Certificate, err error) {
		if err != nil {
			log.Error("could not read the new certificate; the old one stays in force", "error", err)
			return
		}
		log.Info("certificate has changed", "names", pair.Leaf.DNSNames, "serial", pair.Leaf.SerialNumber.Text(16), "ends", pair.Leaf.NotAfter)
	})
	if err != nil {
		return nil, err
	}
	return &File{path: certPath, pair: pair}, nil
}

func readPair(certPath, keyPath string) (*tls.Certificate, error) {
	cert, err := ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	key, err := ReadFile(keyPath)
	if err != nil {
		return nil, err
	}
	pair, err := Parse(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", certPath, keyPath, err)
	}
	return pair, nil
}

// Current is the last good pair, at most reread.Refresh old.
func (f *File) Current() *tls.Certificate {
	pair, _ := f.pair.Get()
	return pair
}

// Ready is nil if the operator's newest pair is in force and its time is now, otherwise an error that says what is wrong. It reads the problem
// file, too (see ProblemSuffix).
func (f *File) Ready() error {
	pair, err := f.pair.Get()
	if err != nil {
		return fmt.Errorf("%w; the old one, until %s, stays in force", err, day(pair.Leaf.NotAfter))
	}
	switch now := time.Now(); {
	case now.After(pair.Leaf.NotAfter):
		return fmt.Errorf("%s: the certificate ended on %s; clients refuse it", f.path, day(pair.Leaf.NotAfter))
	case now.Before(pair.Leaf.NotBefore):
		return fmt.Errorf("%s: the certificate begins on %s only; clients refuse it", f.path, day(pair.Leaf.NotBefore))
	}
	text, err := os.ReadFile(f.path + ProblemSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(text)))
}

// day is a time for readers.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
