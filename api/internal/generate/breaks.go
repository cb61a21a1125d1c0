package generate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/rumi-ai/rumi/libs/openapi"
)

// Where a break is measured from, and where it is declared, from the root of the repository.
const (
	BaselineFile = "api/openapi/baseline.json"
	ChangesFile  = "docs/api-changes.md"
)

// UndeclaredBreaks are the changes since the baseline that can break clients, and that docs/api-changes.md doesn't declare.
func UndeclaredBreaks(root string) ([]string, error) {
	now, err := Document(root)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, BaselineFile))
	if err != nil {
		return nil, err
	}
	before, err := openapi.Parse(text)
	if err != nil {
		return nil, err
	}
	contract, err := openapi.Contract(now)
	if err != nil {
		return nil, err
	}
	declared, err := os.ReadFile(filepath.Join(root, ChangesFile))
	if err != nil {
		return nil, err
	}
	var undeclared []string
	for _, change := range openapi.Breaking(before, contract) {
		if !strings.Contains(string(declared), "`"+change+"`") {
			undeclared = append(undeclared, change)
		}
	}
	return undeclared, nil
}

// errUndeclared keeps a baseline that would hide a break.
var errUndeclared = errors.New("there are breaks that " + ChangesFile + " doesn't declare; `make lint` names them")

// Baseline makes the baseline of the next release: what clients of it are written for. It fails where a break isn't declared.
func Baseline(root string) ([]byte, error) {
	undeclared, err := UndeclaredBreaks(root)
	switch {
	case errors.Is(err, os.ErrNotExist): // the first
	case err != nil:
		return nil, err
	case len(undeclared) > 0:
		return nil, errUndeclared
	}
	now, err := Document(root)
	if err != nil {
		return nil, err
	}
	contract, err := openapi.Contract(now)
	if err != nil {
		return nil, err
	}
	return contract.JSON()
}
