package keyset

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrUnavailable marks (errors.Is) the errors of a File whose key can't be used at present: it is missing, unreadable, or was replaced.
var ErrUnavailable = errors.New("the key of the secrets can't be used")

// errReplaced is the error for a file that has lost the name under which the operator knows it: the key was replaced or removed.
var errReplaced = errors.New("user_data/settings/secrets_key was replaced or removed, and the new one is not known yet")

// links is the number of names (hard links) of a valid key file: user_data/settings/secrets_key, which is the operator's, and the name in
// the folder that the service mounts. If the operator replaces the first, the file behind the second is the old key, with one name left.
const links = 2

// File is a key in a file that the operator may replace at any time. Each Encrypt and Decrypt checks the file's fingerprint first, with one
// stat(2): a secret that is encrypted with a key that the operator has replaced could never be read again. A file that has lost the
// operator's name (see links) is refused.
//
// File implements tink.AEAD and is safe for concurrent use. Errors that come from the file are ErrUnavailable (errors.Is).
type File struct {
	path string

	mu    sync.Mutex
	known fingerprint // of the file that aead and err come from; the zero value for none
	aead  tink.AEAD
	err   error
}

// fingerprint changes whenever a file is written to or replaced, and whenever it gets or loses a name.
type fingerprint struct {
	dev, ino, links uint64
	size            int64
	ctime           syscall.Timespec
}

// Watch makes a File for the key at path, without reading it. The file may be missing: then each use fails until it is there.
func Watch(path string) *File { return &File{path: path} }

// Ready is nil if the key can be used, otherwise an error that says why not.
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

// current returns the key that is in the file now. It reads the file only if its fingerprint has changed.
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
		// A race: the file may have been replaced between the stat and the reading. Then known stays empty, and the loop reads again.
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
