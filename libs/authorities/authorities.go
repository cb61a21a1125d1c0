// Package authorities reads the certificate authorities that an operator adds to the public ones, for TLS to upstreams and package indexes: a
// PEM file that may be replaced while services run. egress-proxy and pip-installer use a File each; init uses Read before it copies the
// operator's file.
package authorities

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"github.com/rumi-ai/rumi/libs/reread"
)

const (
	// MaxFile bounds a file of authorities, in bytes. For comparison: all public authorities together take a quarter of a MiB.
	MaxFile = 4 << 20

	// ProblemSuffix is added to the name of a file of authorities to get the name of its problem file. If init can't use the operator's
	// newest version it leaves the older copy there, and writes the reason into the problem file, in one line.
	ProblemSuffix = ".problem"
)

// Read returns the contents of a PEM file. It is an error if path is no regular file, is larger than MaxFile, holds no certificate, or if a
// certificate at the end is incomplete. The error names the path.
func Read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold the start up
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder, want a file of certificates (PEM)", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file, want a file of certificates (PEM)", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > MaxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	case !x509.NewCertPool().AppendCertsFromPEM(data):
		return nil, fmt.Errorf("%s holds no certificate (PEM: it begins with -----BEGIN CERTIFICATE-----)", path)
	}
	// A race: the operator's program may be writing the file at this moment. Then a certificate at the end has a first line and no last one.
	if rest := bytes.TrimSpace(after(data)); bytes.Contains(rest, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, fmt.Errorf("%s: a certificate in it is cut off", path)
	}
	return data, nil
}

// after returns the bytes behind the last PEM block.
func after(data []byte) []byte {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return data
		}
		data = rest
	}
}

// File is the file of authorities that a setting names. Use Open. It is safe for concurrent use.
type File struct {
	setting, path string
	pem           *reread.Value[[]byte]
}

// Open reads the file at path, the value of the named setting ("RUMI_…"). The setting is named in errors and log lines. The error is that of
// Read. If a later version of the file can't be used, the last good one stays in force, and Ready and the log say why.
func Open(setting, path string, log *slog.Logger) (*File, error) {
	f := &File{setting: setting, path: path}
	var last []byte // what is in force
	var err error
	f.pem, err = reread.Open([]string{path}, func() ([]byte, error) { return Read(path) }, func(data []byte, err error) {
		if err != nil {
			log.Error("could not read certificate authorities", "error", f.kept(err))
		} else if !bytes.Equal(data, last) {
			last = data
			log.Info("certificate authorities have changed", "setting", setting)
		}
	})
	if err != nil {
		return nil, f.named(err)
	}
	last = f.PEM()
	return f, nil
}

// PEM is the contents of the last good version of the file, at most reread.Refresh old. Don't change the slice: it is shared.
func (f *File) PEM() []byte {
	data, _ := f.pem.Get()
	return data
}

// Ready is nil if the operator's newest authorities are in force, otherwise an error that says why they aren't. It reads the problem file,
// too (see ProblemSuffix).
func (f *File) Ready() error {
	if _, err := f.pem.Get(); err != nil {
		return f.kept(err)
	}
	text, err := os.ReadFile(f.path + ProblemSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return f.named(err)
	}
	return errors.New(strings.TrimSpace(string(text)))
}

// kept is the error of a version that isn't used.
func (f *File) kept(err error) error {
	return fmt.Errorf("%w; the authorities read before stay in force", f.named(err))
}

// named puts the name of the setting before an error.
func (f *File) named(err error) error { return fmt.Errorf("%s: %w", f.setting, err) }
