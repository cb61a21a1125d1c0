package vault

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/tink-crypto/tink-go/v2/tink"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/keyset"
)

const (
	// MaxValue bounds a value, in bytes of the JSON string that it is sent as, quotes included. The answer of secrets.get
	// has 1 MiB of JSON in all; 1 KiB of it is for what stands beside the value, so that each value that can be set can
	// also be read.
	MaxValue = 1<<20 - 1<<10

	// maxFile bounds the file of a secret, in bytes: base64 of 1 MiB, which earlier versions accepted as a value, and room
	// for the rest.
	maxFile = (1<<20)*4/3 + 8<<10

	formatVersion = 1
)

// errDamaged marks a file that does not hold what it should: cut, changed, another key's, or sealed with another keyset.
var errDamaged = errors.New("file of secret is damaged")

// file is a secret as it lies on disk, one JSON object. It holds either a sealed value or, as a tombstone, the time of
// deletion.
type file struct {
	Version   int       `json:"version"`
	Key       string    `json:"key"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"` // of the last set
	DeletedAt time.Time `json:"deleted_at,omitzero"`
	Sealed    []byte    `json:"sealed,omitempty"` // Tink AEAD ciphertext, the key's name its associated data; base64
}

func (f file) deleted() bool { return !f.DeletedAt.IsZero() }

// fileName is where the secret named key lies.
func fileName(key string) string { return key + ".json" }

// tempName is where its next version is written. Writers exclude each other, so one name a key is enough, and what a
// killed writer left is overwritten by the next or removed at the next start.
func tempName(key string) string { return "." + key + ".new" }

// checkSize refuses a value that could be set and never be read. The value itself is in no error.
func checkSize(value api.Value) error {
	text := value.Reveal()
	if len(text) > 1<<20 {
		return fault.Invalid("Value too large (max 1 MB)").With("value_too_large")
	}
	if quoted, err := jsontext.AppendQuote(nil, text); err != nil || len(quoted) > MaxValue {
		return fault.Invalid("Value too large (max 1 MB): the JSON string that secrets.get answers with must not be over %d bytes", MaxValue).With("value_too_large")
	}
	return nil
}

func encodeFile(f file) ([]byte, error) {
	data, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// decodeFile reads the file of the secret named key; any error is errDamaged. It never quotes the file.
func decodeFile(key string, data []byte) (file, error) {
	var f file
	if err := json.Unmarshal(data, &f, json.RejectUnknownMembers(true)); err != nil {
		return file{}, fmt.Errorf("%w: not the JSON of a secret", errDamaged)
	}
	switch {
	case f.Version != formatVersion:
		return file{}, fmt.Errorf("%w: format version %d, want %d", errDamaged, f.Version, formatVersion)
	case f.Key != key:
		return file{}, fmt.Errorf("%w: holds another key", errDamaged)
	case f.CreatedAt.IsZero() || f.UpdatedAt.Before(f.CreatedAt):
		return file{}, fmt.Errorf("%w: impossible times", errDamaged)
	case f.deleted() == (len(f.Sealed) > 0):
		return file{}, fmt.Errorf("%w: neither value nor tombstone", errDamaged)
	}
	return f, nil
}

// keyUnavailable is the answer while the key of the secrets is missing or being replaced.
func keyUnavailable(err error) error {
	return fault.Unavailable("The key of the secrets can't be used (see GET /api/health)").With("secrets_key_unavailable").Because(err)
}

// seal encrypts value for the key's own file and no other.
func seal(cipher tink.AEAD, key string, value api.Value) ([]byte, error) {
	sealed, err := cipher.Encrypt([]byte(value.Reveal()), []byte(key))
	if errors.Is(err, keyset.ErrUnavailable) {
		return nil, keyUnavailable(err)
	}
	if err != nil {
		return nil, errors.New("encrypt value: the keyset can't be used")
	}
	return sealed, nil
}

// load reads a secret and, unless it is deleted, opens its value. errors.Is(err, fs.ErrNotExist) where there is no file,
// errors.Is(err, errDamaged) where there is one that can't be trusted.
func (v *Vault) load(key string) (file, api.Value, error) {
	f, err := v.read(key)
	if err != nil || f.deleted() {
		return f, api.Value{}, err
	}
	text, err := v.cipher.Decrypt(f.Sealed, []byte(key))
	if errors.Is(err, keyset.ErrUnavailable) { // which says nothing about the file
		return file{}, api.Value{}, keyUnavailable(err)
	}
	if err != nil {
		return file{}, api.Value{}, fmt.Errorf("%w: changed, moved from another key, or encrypted with another settings/secrets_key", errDamaged)
	}
	return f, api.NewValue(string(text)), nil
}

func (v *Vault) read(key string) (file, error) {
	info, err := v.root.Lstat(fileName(key))
	if err != nil {
		return file{}, err
	}
	if !info.Mode().IsRegular() {
		return file{}, fmt.Errorf("%w: no regular file", errDamaged)
	}
	// A race: the file may have been replaced by a FIFO since Lstat. O_NONBLOCK keeps the opening of one from blocking.
	f, err := v.root.OpenFile(fileName(key), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return file{}, err
	}
	if len(data) > maxFile {
		return file{}, fmt.Errorf("%w: larger than %d bytes", errDamaged, maxFile)
	}
	return decodeFile(key, data)
}

// prepare writes f under its temporary name and syncs it. Commit of the result replaces the old file by it.
func (v *Vault) prepare(f file) (_ *atomicfile.File, err error) {
	data, err := encodeFile(f)
	if err != nil {
		return nil, err
	}
	out, err := atomicfile.Create(v.root, fileName(f.Key), 0o600, atomicfile.TempName(tempName(f.Key)))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			out.Discard()
		}
	}()
	half := len(data) / 2
	_, err = out.Write(data[:half])
	v.step("half written")
	if err == nil {
		_, err = out.Write(data[half:])
	}
	if err == nil {
		err = out.Sync()
	}
	return out, err
}
