package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/identity"
)

// ensureHomeID reads the id of the home, or makes one. Containers, socket folders and certificates bear the id, and a new one would
// make them a stranger's. So an id that was lost is restored from the services' copies, and a new one is made only where no
// service has a copy yet.
func (cfg Config) ensureHomeID(settings string, gid int, log *slog.Logger) (string, error) {
	path := filepath.Join(settings, identity.HomeFile)
	home, err := identity.ReadHome(path)
	if err == nil {
		return home, nil
	}
	lost := errors.Is(err, fs.ErrNotExist)
	copies := map[string]bool{}
	for _, name := range Services {
		if id, err := identity.ReadHome(filepath.Join(settings, "identity", name, identity.HomeFile)); err == nil {
			copies[id] = true
			home = id
		}
	}
	switch {
	case len(copies) > 1:
		return "", fmt.Errorf("read home id: %w, and the copies in %s differ; write the right one to %s",
			err, filepath.Join(settings, "identity", "*", identity.HomeFile), path)
	case len(copies) == 0 && !lost:
		return "", fmt.Errorf("read home id: %w; restore it from a backup, or remove it if this home is new", err)
	case len(copies) == 0:
		home = identity.NewHome()
	}
	if !lost {
		if err := os.Rename(path, path+".unreadable"); err != nil {
			return "", fmt.Errorf("restore home id: %w", err)
		}
	}
	if err := atomicfile.WritePath(path, []byte(home+"\n"), 0o640, atomicfile.NoReplace(), atomicfile.Owner(cfg.UID, gid)); err != nil {
		return "", fmt.Errorf("write home id: %w", err)
	}
	if len(copies) == 0 {
		log.Info("home id made", "path", path, "home", home)
	} else {
		log.Warn("home id restored from the services' copies", "path", path, "home", home)
	}
	return home, nil
}
