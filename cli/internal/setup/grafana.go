package setup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// grafanaPassword is the file with the password of Grafana's user admin, in a folder that Grafana alone mounts. It is made whether or not
// the profile monitoring is used, so that Grafana never starts with the password that its documentation names.
const (
	grafanaDir      = "grafana"
	grafanaPassword = "admin_password"
)

// ensureGrafanaPassword makes the password if there is none: 130 random bits, readable by the operator's group. Grafana takes it
// when it makes its database, and never reads it again.
func (cfg Config) ensureGrafanaPassword(settings string, gid int, log *slog.Logger) error {
	path := filepath.Join(settings, grafanaDir, grafanaPassword)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WritePath(path, []byte(rand.Text()), tokenMode, atomicfile.NoReplace(), atomicfile.Owner(cfg.UID, gid)); err != nil {
			return fmt.Errorf("make Grafana's password: %w", err)
		}
		log.Info("password of Grafana made", "path", path)
	}
	return cfg.correctOwner(path, fileOwner{what: "password of Grafana", mode: tokenMode, gid: gid}, log)
}
