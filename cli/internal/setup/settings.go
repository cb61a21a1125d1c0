package setup

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/spelling"
)

// setting is a variable of ours in the compose file. That file passes on every setting there is, so that it is the list of
// those that are known.
var setting = regexp.MustCompile(`RUMI_[A-Z0-9_]+`)

// CheckSettings refuses variables of ours ("NAME=value" entries) that the compose file doesn't know. Compose passes on known
// names only: a misspelt limit would silently be no limit.
func CheckSettings(composeFile string, environ []string) error {
	compose, err := os.ReadFile(composeFile)
	if err != nil {
		return fmt.Errorf("read known settings: %w", err)
	}
	known := setting.FindAllString(string(compose), -1)
	var problems []error
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "RUMI_") && !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf(".env: %s is no setting of Rumi%s", name, spelling.Hint(name, known)))
		}
	}
	return errors.Join(problems...)
}
