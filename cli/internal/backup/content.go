package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/rumi-ai/rumi/libs/bundle"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/tree"
)

// Bounds of the files that are looked into, in bytes.
const (
	maxManifest = 64 << 20
	maxSecret   = 2 << 20
	maxKey      = 64 << 10
)

const (
	manifestsDir = "user_data/approved/manifests"
	bundlesDir   = "user_data/approved/bundles"
	blobsDir     = "user_data/approved/blobs"
	keyPath      = settingsDir + "/secrets_key"
)

// content is what the checks of references need to know of the content of files. It is collected while files pass by, from the home or from
// a backup, so that no file is read twice.
type content struct {
	trees   map[string]approvedTree   // by digest: the approved trees whose manifests were read
	bundles map[string][]bundle.Sum   // by path: the blobs that a bundle holds
	secrets map[string]sealed         // by path: what is wrong with a secret, and with which key it was opened
	keyOf   func() (tink.AEAD, error) // the key of the secrets; an error until it has passed by
	keySum  string
}

// approvedTree is what approved code needs: the blobs, or why its manifest can't be used.
type approvedTree struct {
	blobs []bundle.Sum
	err   error
}

// sealed is a secret's file after an attempt to open it. The value is not kept.
type sealed struct {
	keySum string
	err    error
}

func newContent() *content {
	return &content{
		trees: map[string]approvedTree{}, bundles: map[string][]bundle.Sum{}, secrets: map[string]sealed{},
		keyOf: func() (tink.AEAD, error) { return nil, errors.New("the key of the secrets is missing") },
	}
}

// sink is where a file's content goes while it passes by.
type sink interface {
	io.Writer
	// end is called once all of the file was written.
	end()
}

// sinkOf returns the sink of a file, nil for one whose content tells nothing.
func (c *content) sinkOf(name string) sink {
	dir, base := path.Split(name)
	switch dir = strings.TrimSuffix(dir, "/"); {
	case dir == manifestsDir && strings.HasSuffix(base, ".json"):
		return &buffered{max: maxManifest, done: func(data []byte, whole bool) { c.manifest("sha256:"+strings.TrimSuffix(base, ".json"), data, whole) }}
	case dir == bundlesDir:
		return &tail{done: func(t *tail) { c.bundle(name, t) }}
	case name == keyPath:
		return &buffered{max: maxKey, done: func(data []byte, _ bool) { c.key(data) }}
	case dir == secretsPath && strings.HasSuffix(base, ".json"):
		return &buffered{max: maxSecret, done: func(data []byte, whole bool) { c.secret(name, data, whole) }}
	}
	return nil
}

func (c *content) manifest(digest string, data []byte, whole bool) {
	m, err := tree.ReadManifest(bytes.NewReader(data))
	switch {
	case !whole:
		err = errors.New("its manifest is too large")
	case err == nil && m.Digest() != digest:
		err = errors.New("its manifest is that of another tree")
	}
	t := approvedTree{err: err}
	for _, e := range m.Entries {
		if sum, bad := hex.DecodeString(e.SHA256); e.Kind == tree.File && bad == nil && len(sum) == sha256.Size {
			t.blobs = append(t.blobs, bundle.Sum(sum))
		}
	}
	c.trees[digest] = t
}

func (c *content) bundle(name string, t *tail) {
	entries, err := bundle.ReadIndex(t, t.size)
	if err != nil {
		return // it holds nothing then, and what needs it says so
	}
	sums := make([]bundle.Sum, len(entries))
	for i, e := range entries {
		sums[i] = e.Sum
	}
	c.bundles[name] = sums
}

func (c *content) key(data []byte) {
	key, err := keyset.Parse(data)
	if err != nil {
		err = fmt.Errorf("%s %w", keyPath, err)
	}
	sum := sha256.Sum256(data)
	c.keyOf, c.keySum = func() (tink.AEAD, error) { return key, err }, hex.EncodeToString(sum[:])
}

// secret opens a secret, to know that it can be opened. No error says anything of what is in it.
func (c *content) secret(name string, data []byte, whole bool) {
	var file struct {
		Key       string `json:"key"`
		DeletedAt string `json:"deleted_at"`
		Sealed    []byte `json:"sealed"`
	}
	err := errors.New("it is no file of a secret")
	if json.Unmarshal(data, &file) == nil && whole && file.Key+".json" == path.Base(name) {
		err = nil
	}
	if err == nil && file.DeletedAt == "" {
		var key tink.AEAD
		if key, err = c.keyOf(); err == nil {
			if _, failed := key.Decrypt(file.Sealed, []byte(file.Key)); failed != nil {
				err = errors.New("it can't be decrypted with " + keyPath)
			}
		}
	}
	c.secrets[name] = sealed{keySum: c.keySum, err: err}
}

// buffered keeps a file's content up to a bound.
type buffered struct {
	data []byte
	size int64
	max  int
	done func(data []byte, whole bool)
}

func (b *buffered) Write(p []byte) (int, error) {
	b.size += int64(len(p))
	b.data = append(b.data, p[:min(len(p), b.max-len(b.data))]...)
	return len(p), nil
}

func (b *buffered) end() { b.done(b.data, b.size == int64(len(b.data))) }

// tail keeps the end of a file, as much as a bundle's index can take.
type tail struct {
	data []byte
	size int64
	done func(*tail)
}

var maxTail = int(bundle.MaxTail(tree.MaxEntries))

func (t *tail) Write(p []byte) (int, error) {
	t.size += int64(len(p))
	if t.data = append(t.data, p...); len(t.data) > 2*maxTail {
		t.data = append(t.data[:0], t.data[len(t.data)-maxTail:]...)
	}
	return len(p), nil
}

func (t *tail) end() { t.done(t) }

// ReadAt reads from the end that was kept.
func (t *tail) ReadAt(p []byte, offset int64) (int, error) {
	at := offset - (t.size - int64(len(t.data)))
	if at < 0 || at > int64(len(t.data)) {
		return 0, bundle.ErrTorn
	}
	n := copy(p, t.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
