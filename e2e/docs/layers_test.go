package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the common prefix of this repository's import paths.
const module = "github.com/rumi-ai/rumi/"

// layer is a part of the repository: "libs", "api", "services/approval", …
func layer(path string) string {
	parts := strings.SplitN(path, "/", 3)
	if parts[0] == "services" && len(parts) > 1 {
		return parts[0] + "/" + parts[1]
	}
	return parts[0]
}

// mayImport reports whether a package of the part from may import a package of the part to.
func mayImport(from, to string) bool {
	switch {
	case from == to, to == "libs":
		return true
	case to == "api":
		return strings.HasPrefix(from, "services/") || from == "e2e" || from == "cli"
	default: // no other part may import a service, cli, e2e or runtime
		return false
	}
}

// TestLayers checks all imports, also those of tests: libs import neither api nor services, api imports only libs, and no service imports another.
func TestLayers(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(imported, module); ours && !mayImport(layer(filepath.ToSlash(relative)), layer(to)) {
				t.Errorf("%s imports %s: %s may not import %s", relative, imported, layer(relative), layer(to))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 300 {
		t.Errorf("only %d Go files were found", files)
	}
}

// TestHTTPIsOutermost checks that only package main of a service imports internal/httpapi, so that the domain doesn't depend on HTTP.
func TestHTTPIsOutermost(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(root, "services", "*", "internal", "*", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if strings.HasSuffix(spec.Path.Value, `/internal/httpapi"`) && filepath.Base(filepath.Dir(path)) != "httpapi" {
				t.Errorf("%s imports %s; only package main may", path, spec.Path.Value)
			}
		}
	}
}
