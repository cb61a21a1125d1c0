// Command run writes the files that are generated of the endpoints. It is for `go generate`; the only argument is the folder of the repository.
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
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the folder of the repository, got %d", len(args))
	}
	files, err := generate.Files(args[0])
	if err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(args[0], name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
