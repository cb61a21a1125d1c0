// Package authorities reads the certificate authorities that an operator adds to the public ones: a PEM file that may be
// replaced while services run.
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
	"sync"
	"syscall"
	"time"
)

const (
	// MaxFile bounds a file of authorities, in bytes. All the public ones are a quarter of a MiB.
	MaxFile = 4 << 20

	// Refresh is how old what was read of a file may be: new authorities count after so long.
	Refresh = time.Second

	// ProblemSuffix follows the name of a file whose newer version could not be used. The file of that name says why, in one
	// line; init writes it where it keeps an older copy.
	ProblemSuffix = ".problem"
)

// Read reads a file and checks that it holds certificates. The error names the path.
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
	// Half a certificate at the end is a file that is being written.
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

// File is the file that a setting names. It is safe for concurrent use.
type File struct {
	setting, path string
	log           *slog.Logger

	mu      sync.Mutex
	checked time.Time
	known   string // what the file was when it was read last
	pem     []byte
	err     error // why what is there now isn't used
}

// Open reads the file that the setting names ("RUMI_…"). Later versions that can't be used leave the last good one in
// force, and Ready and the log say why.
func Open(setting, path string, log *slog.Logger) (*File, error) {
	f := &File{setting: setting, path: path, log: log}
	known, _ := fingerprint(path)
	data, err := Read(path)
	if err != nil {
		return nil, f.named(err)
	}
	f.known, f.pem, f.checked = known, data, time.Now()
	return f, nil
}

// PEM is the file's content, at most Refresh old. It must not be changed.
func (f *File) PEM() []byte {
	data, _ := f.current()
	return data
}

// Ready says why the operator's newest authorities aren't those in force, nil where they are.
func (f *File) Ready() error {
	if _, err := f.current(); err != nil {
		return err
	}
	text, err := os.ReadFile(f.path + ProblemSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return f.named(err)
	}
	return errors.New(strings.TrimSpace(string(text)))
}

func (f *File) current() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.checked) < Refresh {
		return f.pem, f.err
	} else {
		f.checked = now
	}
	known, err := fingerprint(f.path)
	if err == nil && known == f.known {
		return f.pem, f.err
	}
	var data []byte
	if err == nil {
		data, err = Read(f.path)
	}
	before := f.err
	if f.known, f.err = known, nil; err != nil {
		f.err = fmt.Errorf("%w; the authorities read before stay in force", f.named(err))
		if before == nil || before.Error() != f.err.Error() {
			f.log.Error("could not read certificate authorities", "error", f.err)
		}
		return f.pem, f.err
	}
	if !bytes.Equal(data, f.pem) {
		f.pem = data
		f.log.Info("certificate authorities have changed", "setting", f.setting)
	}
	return f.pem, nil
}

func (f *File) named(err error) error { return fmt.Errorf("%s: %w", f.setting, err) }

// fingerprint changes whenever a file is written to or replaced.
func fingerprint(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Ctim), nil
}
