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

	"golang.org/x/sys/unix"
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
		if err := writeWhole(path, []byte(hex.EncodeToString(secret)), tokenMode, cfg.UID, gid); err != nil {
			return fmt.Errorf("make API token: %w", err)
		}
		log.Info("API token made", "path", path)
	}
	return cfg.shareToken(settings, gid, log)
}

// shareToken gives the gateway the API token: a second name (hard link) of the very file, in a folder that the gateway
// mounts. Written into, the token changes for both. Replaced or removed, the gateway's name is the file's only one: the
// gateway believes it no more, and shareToken gives it the new file. A file mounted singly would stay the old one.
func (cfg Config) shareToken(settings string, gid int, log *slog.Logger) error {
	path, shared := filepath.Join(settings, tokenName), filepath.Join(settings, gatewayDir, tokenName)
	var own, there unix.Stat_t
	switch err := unix.Lstat(path, &own); {
	case errors.Is(err, unix.ENOENT):
		return nil // nobody is admitted until init makes one
	case err != nil:
		return fmt.Errorf("inspect API token: %w", err)
	case own.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is no regular file; move it elsewhere, then run: docker compose up --detach", path)
	}
	if int(own.Uid) != cfg.UID || int(own.Gid) != gid || own.Mode&0o7777 != tokenMode {
		if err := os.Lchown(path, cfg.UID, gid); err != nil {
			return fmt.Errorf("change owner of API token: %w", err)
		}
		if err := os.Chmod(path, tokenMode); err != nil {
			return fmt.Errorf("change mode of API token: %w", err)
		}
		if own.Mode&0o007 != 0 {
			log.Warn("others could read the API token; now they can't. Replace it if they might have", "path", path)
		}
	}
	if err := unix.Lstat(shared, &there); err == nil && there.Dev == own.Dev && there.Ino == own.Ino {
		return nil
	}
	temp := filepath.Join(settings, gatewayDir, "."+tokenName+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("share API token: %w", err)
	}
	if err := os.Link(path, temp); err != nil {
		return fmt.Errorf("share API token: %w", err)
	}
	if err := os.Rename(temp, shared); err != nil {
		return fmt.Errorf("share API token: %w", err)
	}
	log.Info("API token shared with the gateway", "path", path)
	return nil
}
