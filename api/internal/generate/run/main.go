// Command run writes the files that are generated of the endpoints. It is for `go generate`; its argument is the folder of the repository. With
// --baseline before it, it writes the baseline that later documents are compared with: at a release, and never otherwise.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/api/internal/generate"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	baseline := len(args) > 0 && args[0] == "--baseline"
	if baseline {
		args = args[1:]
	}
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the folder of the repository, got %d", len(args))
	}
	root := args[0]
	if baseline {
		content, err := generate.Baseline(root)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(root, generate.BaselineFile), content, 0o644)
	}
	files, err := generate.Files(root)
	if err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
