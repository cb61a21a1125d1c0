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

// tokenName is the file of the API token. It has two names (hard links): in the settings, where the operator reads and replaces it, and
// in gatewayDir below them, which the gateway mounts.
const (
	tokenName  = "api_token"
	tokenMode  = 0o640
	gatewayDir = "gateway"
)

// ensureToken makes the API token if there is none: 256 random bits in hexadecimal, readable by the operator's group.
func (cfg Config) ensureToken(settings string, gid int, log *slog.Logger) error {
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

// shareToken gives the gateway the API token, by a hard link to the operator's file in a folder that the gateway mounts. (Were the file
// mounted by itself, the gateway would keep the old one when the operator replaces it.) What the operator may do with the file:
//   - write into it: the token changes for both;
//   - replace or remove it: the gateway's link is the old file's only name. The gateway accepts no token from a file with one
//     name, and shareToken links the new file;
//   - rename it: the old file keeps both names, and would stay valid. So if no usable file is in the settings, the gateway's link
//     is removed.
func (cfg Config) shareToken(settings string, gid int, log *slog.Logger) error {
	path, shared := filepath.Join(settings, tokenName), filepath.Join(settings, gatewayDir, tokenName)
	if err := cfg.correctOwner(path, fileOwner{what: "API token", mode: tokenMode, gid: gid}, log); err != nil {
		var removed error
		if !sameFile(path, shared) { // the gateway admits nobody until there is a token
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
