package setup

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/packtrace"
)

// ensureTraceKey makes the key by which a pack's part in a trace is known, in a folder that only the services mount which talk to packs. A
// lost key is made anew: what packs were handed before is just not known any more. A file that holds no key is the
// operator's to look at; it is logged, and the services use a key of their own meanwhile.
func (cfg Config) ensureTraceKey(settings string, log *slog.Logger) error {
	path := filepath.Join(settings, packtrace.Dir, packtrace.File)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return packtrace.Create(path, atomicfile.Owner(cfg.UID, cfg.GID))
	}
	if _, err := packtrace.Load(path); err != nil {
		log.Error("traces end at the border to packs; remove the file, then run: docker compose up --detach --force-recreate", "path", path, "error", err.Error())
	}
	return nil
}
