package keyset

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrUnavailable marks the errors of a File whose key can't be used now.
var ErrUnavailable = errors.New("the key of the secrets can't be used")

// errReplaced is a file whose operator's name is gone: the key was replaced or removed.
var errReplaced = errors.New("user_data/settings/secrets_key was replaced or removed, and the new one is not known yet")

// links is how many names (hard links) the file of a File has: the operator's, and the one in the folder that the service
// mounts.
const links = 2

// File is the key in a file that may be replaced at any time. It looks at the file at each use: what is encrypted with a key
// that is no longer the operator's could never be read again. A file that has lost the operator's name is not believed. It is
// a tink.AEAD and safe for concurrent use; errors that come from the file are errors.Is(err, ErrUnavailable).
type File struct {
	path string

	mu    sync.Mutex
	known fingerprint
	aead  tink.AEAD
	err   error
}

// fingerprint changes whenever a file is written to, replaced, or has a name more or less.
type fingerprint struct {
	dev, ino, links uint64
	size            int64
	ctime           syscall.Timespec
}

// Watch is the key at path. It may be missing for now.
func Watch(path string) *File { return &File{path: path} }

// Ready says why the key can't be used, nil where it can.
func (f *File) Ready() error {
	_, err := f.current()
	return err
}

// Encrypt implements tink.AEAD.
func (f *File) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	aead, err := f.current()
	if err != nil {
		return nil, err
	}
	return aead.Encrypt(plaintext, associatedData)
}

// Decrypt implements tink.AEAD.
func (f *File) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	aead, err := f.current()
	if err != nil {
		return nil, err
	}
	return aead.Decrypt(ciphertext, associatedData)
}

// current is the key as the file has it now.
func (f *File) current() (tink.AEAD, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		now, err := fingerprintOf(f.path)
		if err == nil && now == f.known {
			return f.aead, f.err
		}
		f.known = fingerprint{}
		if err == nil && now.links < links {
			err = errReplaced
		}
		if err != nil {
			return nil, unavailable(err)
		}
		if f.aead, f.err = Load(f.path); f.err != nil {
			f.err = unavailable(f.err)
		}
		// Read again what was replaced while it was read.
		if after, err := fingerprintOf(f.path); err == nil && after == now {
			f.known = now
		}
	}
}

func unavailable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("user_data/settings/secrets_key is missing")
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func fingerprintOf(path string) (fingerprint, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return fingerprint{}, fmt.Errorf("inspect key of the secrets: %w", err)
	}
	return fingerprint{dev: st.Dev, ino: st.Ino, links: uint64(st.Nlink), size: st.Size, ctime: st.Ctim}, nil
}
