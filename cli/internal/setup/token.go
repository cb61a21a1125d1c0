package setup

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// tokenName is the API token's file: in the settings, where operators read and replace it, and in the folder of the
// settings that the gateway sees.
const (
	tokenName  = "api_token"
	tokenMode  = 0o640
	gatewayDir = "gateway"
)

// token makes the API token where there is none: 256 random bits in hexadecimal, readable by the operator's group.
func (cfg Config) token(settings string, gid int, log *slog.Logger) error {
	path := filepath.Join(settings, tokenName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // it never fails
		if err := atomicfile.WritePath(path, []byte(hex.EncodeToString(secret)), tokenMode, atomicfile.NoReplace(), atomicfile.Owner(cfg.UID, gid)); err != nil {
			return fmt.Errorf("make API token: %w", err)
		}
		log.Info("API token made", "path", path)
	}
	return cfg.shareToken(settings, gid, log)
}

// shareToken gives the gateway the API token: a second name (hard link) of the very file, in a folder that the gateway
// mounts. Written into, the token changes for both. Replaced or removed, the gateway's name is the file's only one: the
// gateway believes it no more, and shareToken gives it the new file. A file mounted singly would stay the old one. Moved
// aside, the old file keeps its two names: so where no usable file is in the settings, the gateway's name is taken away.
func (cfg Config) shareToken(settings string, gid int, log *slog.Logger) error {
	path, shared := filepath.Join(settings, tokenName), filepath.Join(settings, gatewayDir, tokenName)
	if err := cfg.ownFile(path, ownedFile{what: "API token", mode: tokenMode, gid: gid}, log); err != nil {
		var removed error
		if !sameFile(path, shared) { // nobody is admitted until there is a token
			if removed = os.Remove(shared); errors.Is(removed, fs.ErrNotExist) {
				removed = nil
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // init makes one
		}
		return errors.Join(err, removed)
	}
	if sameFile(path, shared) {
		return nil
	}
	if err := shareFile(path, shared); err != nil {
		return fmt.Errorf("share API token: %w", err)
	}
	log.Info("API token shared with the gateway", "path", path)
	return nil
}
