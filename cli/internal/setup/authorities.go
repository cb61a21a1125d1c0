package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/authorities"
)

// caDir holds a folder for each setting that names certificate authorities. Each is mounted by the services that use it.
const caDir = "ca"

// Authorities is a setting that names a file of certificate authorities.
type Authorities struct {
	Setting string // RUMI_…
	Given   string // the setting's value, a path on the host; "" where it is unset
	File    string // where that file is mounted
	Name    string // of the folder in settings/ca that gets a copy
}

// copyAuthorities copies the operator's certificate authorities into folders that the services mount. (Were the file mounted by itself,
// the services would keep the old one when the operator replaces it.) If the file can't be used, the copy from before stays in
// force, and the reason is written beside it, for the services' readiness to show. Without a copy from before it is an error.
func (cfg Config) copyAuthorities(settings string, log *slog.Logger) error {
	var problems []error
	for _, a := range cfg.Authorities {
		dir := filepath.Join(settings, caDir, a.Name)
		copied := filepath.Join(dir, "ca.pem")
		problem := copied + authorities.ProblemSuffix
		if a.Given == "" {
			for _, path := range []string{copied, problem} {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("remove authorities that are no longer set: %w", err)
				}
			}
			continue
		}
		pem, err := authorities.Read(a.File)
		if err != nil {
			err = a.explain(err)
			if _, kept := authorities.Read(copied); kept != nil {
				problems = append(problems, err)
				continue
			}
			log.Error("certificate authorities can't be used; the copy from before stays in force", "error", err.Error())
			if err := cfg.replaceFile(problem, []byte(err.Error()+"; the copy from before stays in force\n")); err != nil {
				return fmt.Errorf("note what is wrong with authorities: %w", err)
			}
			continue
		}
		if old, err := os.ReadFile(copied); err != nil || !bytes.Equal(old, pem) {
			if err := cfg.replaceFile(copied, pem); err != nil {
				return fmt.Errorf("copy authorities: %w", err)
			}
			log.Info("certificate authorities copied for the services", "setting", a.Setting, "path", copied)
		}
		if err := os.Remove(problem); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy authorities: %w", err)
		}
	}
	return errors.Join(problems...)
}

// explain says what to do about a file that can't be used. The engine makes a folder where a file to be mounted is missing.
func (a Authorities) explain(err error) error {
	if info, missing := os.Lstat(a.File); missing != nil || info.IsDir() {
		return fmt.Errorf("%s=%q: no such file. A folder may have been made in its place: remove it (rmdir %s), put the file there, then run: docker compose up --detach",
			a.Setting, a.Given, a.Given)
	}
	return fmt.Errorf("%s=%q: %w. Mend the file, then run: docker compose up --detach", a.Setting, a.Given, err)
}

// replaceFile replaces a file of the services by data, in one step, readable by the group that its folder gives.
func (cfg Config) replaceFile(path string, data []byte) error {
	return atomicfile.WritePath(path, data, 0o640, atomicfile.Owner(cfg.UID, -1))
}
