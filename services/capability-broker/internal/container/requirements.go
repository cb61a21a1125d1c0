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

// lockPaths are the files of a pack that may list its dependencies.
var lockPaths = []string{"requirements.lock", "backend/requirements.lock"}

// lockWarning says that the lock in a pack's code is not the one that its packages were installed from; "" if it is, or if there is no
// lock. code is the folder of the approved code, installed the candidate key of the installed lock ("" for none). Without this warning a
// pack that is started before its lock is approved would fail at its first import, and nothing would say why.
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

// lockKey is the candidate key of a lock, as pip-installer makes it: pack_id:relpath:sha256. The file is opened within root, so that a
// link can't lead out of the code.
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
