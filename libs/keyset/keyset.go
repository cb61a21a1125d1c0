// Package keyset makes and reads the key that secrets are encrypted with: a Tink keyset for AEAD (AES-256-GCM with
// random nonces), kept as Tink's JSON in a file of mode 0600.
//
// A Tink keyset may hold several keys: the primary one encrypts, all of them decrypt. So keys can be rotated with Tink's own tools, without
// a change here. See https://developers.google.com/tink/wire-format.
//
// init makes the key (Create). The service secrets uses it through a File, which follows the operator's replacements.
package keyset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// maxFile bounds what Load reads: a keyset of a hundred keys is under 32 KiB.
const maxFile = 64 << 10

// Create makes a new key and writes it to path, complete and synced, or not at all. It never replaces a file, because everything that was
// encrypted with the old key would be lost. If path exists the error is fs.ErrExist (errors.Is), and the file stays as it is.
func Create(path string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("create keyset: %w", err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
		return fmt.Errorf("create keyset: %w", err)
	}
	out.WriteByte('\n')

	if err := atomicfile.WritePath(path, out.Bytes(), 0o600, atomicfile.NoReplace()); err != nil {
		return fmt.Errorf("create keyset: %w", err)
	}
	return nil
}

// Load reads the key at path. It refuses a file whose mode gives its group or others any right, a file of more than 64 KiB, and anything but
// a regular file. The errors name the path. They never quote the contents: a log must not have a part of the key.
func Load(path string) (tink.AEAD, error) {
	data, err := read(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("load keyset: %w (run init: docker compose up --detach)", err)
		}
		return nil, fmt.Errorf("load keyset: %w", err)
	}
	primitive, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("load keyset: %s %w; restore it from a backup", path, err)
	}
	return primitive, nil
}

// Parse reads the content of a key's file, as a backup has it. The errors never quote it.
func Parse(data []byte) (tink.AEAD, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, errors.New("holds no keyset") // the cause is left out: a JSON error may quote what it could not read
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, errors.New("holds no AEAD keyset")
	}
	return primitive, nil
}

func read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold the start up
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others can read it; run `chmod 600 %s`", path, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}
