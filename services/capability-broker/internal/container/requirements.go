package container

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

// lockPaths are where a pack may have its requirements.lock.
var lockPaths = []string{"requirements.lock", "backend/requirements.lock"}

// lockWarning says that a pack's code lists dependencies which are not the installed ones, "" where that isn't so. code is the
// folder of the approved code, installed the key of the installed lock, "" for none. Without it a pack that was started before its
// lock was approved would fail at its first import, and nothing would say why.
func lockWarning(code, packID, installed string) string {
	root, err := os.OpenRoot(code)
	if err != nil {
		return ""
	}
	defer root.Close()
	var missing string
	for _, path := range lockPaths {
		key, err := lockKey(root, packID, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return path + " can't be read"
		case key == installed:
			return ""
		default:
			missing = key
		}
	}
	switch {
	case missing == "":
		return ""
	case installed == "":
		return "requirements.lock isn't installed: approve " + missing + " first (POST /api/pip/requests/{candidate_key}/approve), then start the pack again"
	}
	return "the installed packages are of another requirements.lock: approve " + missing + " (POST /api/pip/requests/{candidate_key}/approve), then start the pack again"
}

// lockKey is the candidate key that a lock has.
func lockKey(root *os.Root, packID, path string) (string, error) {
	f, err := root.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return strings.Join([]string{packID, path, hex.EncodeToString(sum.Sum(nil))}, ":"), nil
}
