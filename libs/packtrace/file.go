package packtrace

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// Dir and File are where init puts the key, below user_data/settings. Only the services that talk to packs mount the folder.
const (
	Dir  = "trace"
	File = "key"
)

// Create writes a new key: 64 hexadecimal digits. It is an error if there is a file (fs.ErrExist).
func Create(path string, options ...atomicfile.Option) error {
	k := Random()
	text := append(hex.AppendEncode(nil, k.secret[:]), '\n')
	if err := atomicfile.WritePath(path, text, 0o600, append(options, atomicfile.NoReplace())...); err != nil {
		return fmt.Errorf("make key of traces: %w", err)
	}
	return nil
}

// Load reads a key.
func Load(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key of traces: %w", err)
	}
	var k Key
	text = bytes.TrimSpace(text)
	if len(text) != hex.EncodedLen(len(k.secret)) {
		return nil, fmt.Errorf("read key of traces: %s has %d characters, want %d hexadecimal digits", path, len(text), hex.EncodedLen(len(k.secret)))
	}
	if _, err := hex.Decode(k.secret[:], text); err != nil {
		return nil, fmt.Errorf("read key of traces: %s: %w", path, err)
	}
	return &k, nil
}

// LoadOrRandom is Load for a service: traces must not keep it from its work. Without a usable key it says so and takes a random one. Then packs
// can't continue the traces that other services handed to them; nothing else is different.
func LoadOrRandom(path string, log *slog.Logger) *Key {
	k, err := Load(path)
	if err != nil {
		log.Warn("traces end at the border to packs: the key by which a pack's part in them is known can't be used. "+
			"To mend it, remove the file if there is one, then run: docker compose up --detach --force-recreate", "path", path, "error", err.Error())
		return Random()
	}
	return k
}
