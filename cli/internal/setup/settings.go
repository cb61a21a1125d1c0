package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/spelling"
)

// setting is the name of a variable of Rumi. The compose file passes on every setting that exists, so it serves as their list.
var setting = regexp.MustCompile(`RUMI_[A-Z0-9_]+`)

// CheckSettings refuses variables of Rumi in environ ("NAME=value") that are neither in the compose file nor in the operator's files
// beside it: those that compose reads by itself and those that COMPOSE_FILE in the environment names. Without the check a misspelt
// limit would silently be no limit, because compose passes on known names only.
func CheckSettings(composeFile string, environ []string) error {
	compose, err := os.ReadFile(composeFile)
	if err != nil {
		return fmt.Errorf("read known settings: %w", err)
	}
	known := setting.FindAllString(string(compose), -1)
	for _, path := range overrides(filepath.Dir(composeFile), environ) {
		file, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read known settings: %w", err)
		}
		known = append(known, setting.FindAllString(string(file), -1)...)
	}
	var problems []error
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "RUMI_") && !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf(".env: %s is no setting of Rumi%s", name, spelling.Hint(name, known)))
		}
	}
	return errors.Join(problems...)
}

// overrides returns the paths of files with which the operator may have extended the compose file. A path in COMPOSE_FILE that leads
// out of the folder is left out: it is one of the host, which this container doesn't see.
func overrides(dir string, environ []string) (paths []string) {
	names := []string{"docker-compose.override.yml", "docker-compose.override.yaml", "compose.override.yml", "compose.override.yaml"}
	for _, entry := range environ {
		if list, ok := strings.CutPrefix(entry, "COMPOSE_FILE="); ok {
			names = append(names, strings.Split(list, ":")...)
		}
	}
	for _, name := range names {
		if filepath.IsLocal(name) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}
