package setup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/keyset"
)

// keyName is the file of the key of the secrets. It has two names (hard links): in the settings, where the operator backs it up and
// replaces it, and in secretsDir below them, which the service secrets mounts.
const (
	keyName    = "secrets_key"
	keyMode    = 0o600
	secretsDir = "secrets"
)

// ensureSecretsKey makes the key of the secrets in a home without secrets. A missing key is restored from the service's link to it. If
// that is gone, too, and there are secrets, no key is made: with a new one they could never be read, and the operator may have a
// backup. This is logged, not an error, so that the other services start nevertheless.
func (cfg Config) ensureSecretsKey(settings string, log *slog.Logger) error {
	path, shared := filepath.Join(settings, keyName), filepath.Join(settings, secretsDir, keyName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		_, lost := keyset.Load(shared)
		secrets, err := filepath.Glob(filepath.Join(cfg.Home, "user_data/secrets/*.json"))
		switch {
		case err != nil:
			return fmt.Errorf("look for secrets: %w", err)
		case lost == nil:
			if err := os.Link(shared, path); err != nil {
				return fmt.Errorf("restore key of the secrets: %w", err)
			}
			log.Warn("key of the secrets restored: the service still had it", "path", path)
		case len(secrets) > 0:
			log.Error("the key of the secrets is missing and no other can read them; put it back from a backup, then run: docker compose up --detach. "+
				"If there is no backup, move the secrets away (mv user_data/secrets user_data/secrets.lost), run the same, and set them again",
				"path", path, "secrets", len(secrets))
			return nil
		default:
			if err := keyset.Create(path); err != nil {
				return err
			}
			log.Info("key of the secrets made; without it they can't be read, so keep a copy", "path", path)
		}
	}
	if err := cfg.shareKey(settings, log); err != nil {
		log.Error("the secrets can't be used", "error", err.Error())
	}
	return nil
}

// shareKey links the operator's key into the folder of the service secrets, as shareToken links the token. A file that holds no key is
// not linked. If the key was replaced, the old one is kept beside it: secrets may have been encrypted with it.
func (cfg Config) shareKey(settings string, log *slog.Logger) error {
	path, shared := filepath.Join(settings, keyName), filepath.Join(settings, secretsDir, keyName)
	if err := cfg.correctOwner(path, fileOwner{what: "key of the secrets", mode: keyMode, gid: cfg.GID}, log); errors.Is(err, fs.ErrNotExist) {
		return nil // the service's readiness says that it is missing
	} else if err != nil {
		return err
	}
	if sameFile(path, shared) {
		return nil
	}
	if _, err := keyset.Load(path); err != nil {
		return err
	}
	if err := keepReplacedKey(path, shared, log); err != nil {
		return fmt.Errorf("keep the key that was replaced: %w", err)
	}
	if err := shareFile(path, shared); err != nil {
		return fmt.Errorf("share key of the secrets: %w", err)
	}
	log.Info("key of the secrets shared with the service secrets", "path", path)
	return nil
}

// keepReplacedKey links the key that the service has had until now to a name beside the operator's key, unless both are equal.
func keepReplacedKey(path, shared string, log *slog.Logger) error {
	old, err := os.ReadFile(shared)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	now, err := os.ReadFile(path)
	if err != nil || bytes.Equal(old, now) {
		return err
	}
	digest := sha256.Sum256(old)
	kept := fmt.Sprintf("%s.replaced-%x", path, digest[:4])
	if err := os.Link(shared, kept); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	log.Warn("the key of the secrets has changed; secrets that were set before need the old one, which is kept", "old", kept)
	return nil
}

// fileOwner is the group and mode that a file of the settings must have.
type fileOwner struct {
	what string // for messages
	mode uint32
	gid  int
}

// correctOwner corrects owner and mode of a regular file that the operator may have replaced. errors.Is(err, fs.ErrNotExist) if there
// is no file.
func (cfg Config) correctOwner(path string, want fileOwner, log *slog.Logger) error {
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case err != nil:
		return fmt.Errorf("inspect %s: %w", want.what, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is no regular file; move it elsewhere, then run: docker compose up --detach", path)
	case int(st.Uid) == cfg.UID && int(st.Gid) == want.gid && st.Mode&0o7777 == want.mode:
		return nil
	}
	if err := os.Lchown(path, cfg.UID, want.gid); err != nil {
		return fmt.Errorf("change owner of %s: %w", want.what, err)
	}
	if err := os.Chmod(path, fs.FileMode(want.mode)); err != nil {
		return fmt.Errorf("change mode of %s: %w", want.what, err)
	}
	if st.Mode&0o007 != 0 {
		log.Warn("others could read the "+want.what+"; now they can't. Replace it if they might have", "path", path)
	}
	return nil
}

// sameFile says whether both paths are names of one file.
func sameFile(a, b string) bool {
	first, err := os.Lstat(a)
	if err != nil {
		return false
	}
	second, err := os.Lstat(b)
	return err == nil && os.SameFile(first, second)
}

// shareFile makes shared another name of the file at path, in one step. atomicfile would make a file of its own, and a change
// of one would not be one of the other.
func shareFile(path, shared string) error {
	temp := filepath.Join(filepath.Dir(shared), "."+filepath.Base(shared)+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, temp); err != nil {
		return err
	}
	return os.Rename(temp, shared)
}
