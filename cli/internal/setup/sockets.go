package setup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/uds"
)

// asidePrefix + home id is the folder that holds a home's sockets while the socket folder belongs to another home.
const asidePrefix = ".home-"

// ensureSocketFolders makes the two folders of sockets, which hold a folder for each pack, and marks them as the home's. Everybody may
// list them, as the guide does; the folders in them are open to the sockets' group only.
func (cfg Config) ensureSocketFolders(home string, log *slog.Logger) error {
	for _, d := range []folder{
		{path: cfg.EgressSockets, uid: cfg.UID, gid: cfg.EgressGID, mode: 0o755},
		{path: cfg.CapabilitySockets, uid: cfg.UID, gid: cfg.CapabilityGID, mode: 0o755},
	} {
		parent, name := filepath.Split(filepath.Clean(d.path))
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		// Claimed before ensure changes anything: owner and mode of another home's folder must stay. Claimed again below, for a
		// folder that ensure has made.
		if info, err := os.Lstat(d.path); err == nil && info.IsDir() {
			if err := cfg.claim(d.path, home, log); err != nil {
				return err
			}
		}
		root, err := os.OpenRoot(parent)
		if err != nil {
			return fmt.Errorf("open folder: %w", err)
		}
		dir := d.path
		d.path = name
		err = d.ensure(root, log)
		_ = root.Close()
		if err != nil {
			return err
		}
		if err := cfg.claim(dir, home, log); err != nil {
			return err
		}
	}
	return nil
}

// claim marks dir as the home's. A folder of another home is taken over only while no suite uses it. Its contents are moved aside, not
// removed, because containers of that home may still have them mounted; they are moved back when that home claims the folder
// again.
func (cfg Config) claim(dir, home string, log *slog.Logger) error {
	inits, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open socket folder: %w", err)
	}
	defer inits.Close()
	if err := flock.WaitOpen(inits, flock.Exclusive); err != nil { // one init at a time
		return fmt.Errorf("claim socket folder: %w", err)
	}
	owner, err := uds.ReadMark(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return uds.WriteMark(dir, home)
	case err != nil:
		return fmt.Errorf("%w; if no other suite uses the folder, remove %s in it", err, uds.MarkName)
	case owner == home:
		return nil
	}
	lock, err := uds.Vacate(dir)
	if errors.Is(err, uds.ErrLocked) {
		return fmt.Errorf("%s belongs to another Rumi home (%s), whose suite is running: two suites can't share a run folder. "+
			"Give this home one of its own: write RUMI_RUN_DIR=%s-%s to .env, then run: docker compose up --detach",
			dir, owner, cmp.Or(cfg.RunDir, "/run/rumi"), home[:8])
	} else if err != nil {
		return err
	}
	defer lock.Close()
	if err := swap(dir, owner, home); err != nil {
		return fmt.Errorf("put another home's sockets aside: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, uds.MarkName)); err != nil {
		return fmt.Errorf("put another home's sockets aside: %w", err)
	}
	log.Warn("socket folder taken over from another Rumi home, whose suite doesn't run", "path", dir, "from", owner)
	return uds.WriteMark(dir, home)
}

// swap moves owner's sockets in dir aside and moves home's back. If it was interrupted it can be repeated.
func swap(dir, owner, home string) error {
	if filepath.Base(owner) != owner {
		return fmt.Errorf("%q is no home id", owner)
	}
	aside := filepath.Join(dir, asidePrefix+owner)
	if err := os.Mkdir(aside, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := moveAll(dir, aside); err != nil {
		return err
	}
	ours := filepath.Join(dir, asidePrefix+home)
	if _, err := os.Lstat(ours); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := moveAll(ours, dir); err != nil {
		return err
	}
	return os.Remove(ours)
}

// moveAll moves the pack folders and locks of one folder to another; hidden names stay.
func moveAll(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
