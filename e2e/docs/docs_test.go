// Package docs compares the repository's documents with the repository, without Docker: links, paths, names of documents in comments, endpoints,
// settings, checks, lists of services, and the imports that the architecture allows.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

// documents returns the paths of all documents for people, relative to the repository.
func documents(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "runtime/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			relative, err := filepath.Rel(root, name)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, relative)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d documents were found, want 10 at least: %v", len(found), found)
	}
	return found
}

// read returns the text of a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	fence    = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")
	heading  = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markup   = regexp.MustCompile("[`*]|\\]\\([^)]*\\)")
	external = regexp.MustCompile(`^[a-z]+:`)
)

// prose returns a document without its blocks of code.
func prose(text string) string { return fence.ReplaceAllString(text, "") }

// anchors returns the anchors that GitHub gives the headings of a document.
func anchors(text string) []string {
	var found []string
	for _, match := range heading.FindAllStringSubmatch(prose(text), -1) {
		found = append(found, anchor(match[1]))
	}
	return found
}

// anchor returns the anchor that GitHub gives a heading.
func anchor(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(markup.ReplaceAllString(heading, "")))
	return strings.Map(func(c rune) rune {
		switch {
		case c == ' ':
			return '-'
		case c == '-', c == '_', unicode.IsLetter(c), unicode.IsDigit(c):
			return c
		}
		return -1
	}, heading)
}

func TestAnchor(t *testing.T) {
	for from, want := range map[string]string{
		"Start, stop, list":                     "start-stop-list",
		"`GET /api/containers/{pack_id}/stats`": "get-apicontainerspack_idstats",
		"`args_schema`, `config_schema`":        "args_schema-config_schema",
		"Stores: `store.*`":                     "stores-store",
		"What it has, and what it hasn't":       "what-it-has-and-what-it-hasnt",
	} {
		if got := anchor(from); got != want {
			t.Errorf("anchor(%q) = %q, want %q", from, got, want)
		}
	}
}

// TestLinks checks that each link to a file of the repository, and to a heading, leads to an existing one.
func TestLinks(t *testing.T) {
	checked := 0
	for _, name := range documents(t) {
		text := read(t, name)
		for _, match := range link.FindAllStringSubmatch(prose(text), -1) {
			target := match[1]
			if external.MatchString(target) {
				continue
			}
			checked++
			file, fragment, _ := strings.Cut(target, "#")
			linked := text
			if file != "" {
				path := filepath.Join(filepath.Dir(name), file)
				info, err := os.Stat(filepath.Join(root, path))
				if err != nil {
					t.Errorf("%s links to %s, which is not there", name, target)
					continue
				}
				if fragment == "" || info.IsDir() {
					continue
				}
				linked = read(t, path)
			}
			if !slices.Contains(anchors(linked), fragment) {
				t.Errorf("%s links to %s: no heading has this anchor", name, target)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d links were found", checked)
	}
}

var path = regexp.MustCompile("`((?:api|cli|deploy|docs|e2e|examples|libs|runtime|services)/[A-Za-z0-9_./-]+)`")

// TestPathsThatDocumentsName checks that each folder and file of the repository that a document names exists.
func TestPathsThatDocumentsName(t *testing.T) {
	named := 0
	for _, name := range documents(t) {
		for _, match := range path.FindAllStringSubmatch(prose(read(t, name)), -1) {
			named++
			if _, err := os.Stat(filepath.Join(root, match[1])); err != nil {
				t.Errorf("%s names %s, which is not there", name, match[1])
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d paths are named, want those of the architecture", named)
	}
}

// TestBlocksSayWhatTheyAre checks that each block of code names its language. The journeys run blocks called "sh", and skip "sh no-test".
func TestBlocksSayWhatTheyAre(t *testing.T) {
	known := []string{"sh", "sh no-test", "text", "json", "python", "yaml", "ini", "nginx", "mermaid"}
	for _, name := range documents(t) {
		if strings.Count("\n"+read(t, name), "\n```")%2 != 0 {
			t.Errorf("%s: a block of code has no end", name)
		}
		for _, match := range fence.FindAllStringSubmatch(read(t, name), -1) {
			if !slices.Contains(known, match[1]) {
				t.Errorf("%s: a block of code is called %q, want one of %q", name, match[1], known)
			}
		}
	}
}

var (
	comment  = regexp.MustCompile(`(?m)//.*$`)
	document = regexp.MustCompile(`[A-Za-z0-9_./-]+\.md\b`)
)

// eachGoFile reads every Go file of the repository.
func eachGoFile(t *testing.T, do func(path, code string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || path == filepath.Join(root, "user_data") || path == filepath.Join(root, "ecosystem")):
			return fs.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		do(path, string(code))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDocumentsThatCommentsName checks that each document that a comment in Go names exists: at that path, or as docs/NAME.
func TestDocumentsThatCommentsName(t *testing.T) {
	named := 0
	eachGoFile(t, func(path, code string) {
		for _, c := range comment.FindAllString(code, -1) {
			for _, name := range document.FindAllString(c, -1) {
				named++
				if !exists(filepath.Dir(path), name) {
					t.Errorf("%s names %s, which is not there", path, name)
				}
			}
		}
	})
	if named < 20 {
		t.Errorf("only %d names of documents were found", named)
	}
}

var section = regexp.MustCompile(`([A-Za-z0-9_./-]+\.md), "([^"]+)"`)

// TestSectionsThatCommentsCite checks that each section that a comment in Go cites (contract.md, "Sockets") is a heading of that document.
func TestSectionsThatCommentsCite(t *testing.T) {
	cited := 0
	eachGoFile(t, func(path, code string) {
		// A citation may continue on the next line.
		text := strings.Join(comment.FindAllString(code, -1), "\n")
		text = regexp.MustCompile(`\s*\n//\s*`).ReplaceAllString(text, " ")
		for _, match := range section.FindAllStringSubmatch(text, -1) {
			cited++
			for _, base := range []string{filepath.Dir(path), root, filepath.Join(root, "docs"), filepath.Join(root, "runtime")} {
				page, err := os.ReadFile(filepath.Join(base, match[1]))
				if err != nil {
					continue
				}
				if !slices.Contains(anchors(string(page)), anchor(match[2])) {
					t.Errorf("%s cites %s, %q: no heading is called so", path, match[1], match[2])
				}
			}
		}
	})
	if cited < 5 {
		t.Errorf("only %d sections are cited, want those of the contract", cited)
	}
}

// exists reports whether a document is in the repository, under the name that a file in the folder dir uses for it.
func exists(dir, name string) bool {
	for _, base := range []string{dir, root, filepath.Join(root, "docs"), filepath.Join(root, "runtime")} {
		if _, err := os.Stat(filepath.Join(base, name)); err == nil {
			return true
		}
	}
	return false
}

var (
	variable = regexp.MustCompile(`RUMI_[A-Z0-9_]*[A-Z0-9]`)
	declared = regexp.MustCompile(`env:"(RUMI_[A-Z0-9_]+)"(?: envDefault:"([^"]*)")?`)
	row      = regexp.MustCompile("(?m)^\\| (`RUMI_[^|]*)\\|([^|]*)\\|")
)

// TestSettings checks that docs/settings.md has each setting that docker-compose.yml passes on or a program declares, in one row, with its default,
// and no other setting.
func TestSettings(t *testing.T) {
	defaults := map[string]string{} // by setting, from the env tags of the programs' configurations
	for _, dir := range []string{"libs", "services", "cli"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			for _, match := range declared.FindAllStringSubmatch(string(code), -1) {
				defaults[match[1]] = max(defaults[match[1]], match[2])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	compose := read(t, "docker-compose.yml")
	want := variable.FindAllString(compose, -1)
	for name := range defaults {
		want = append(want, name)
	}
	listed := map[string]string{} // name to the row's default
	for _, match := range row.FindAllStringSubmatch(read(t, "docs/settings.md"), -1) {
		for _, name := range variable.FindAllString(match[1], -1) {
			if _, twice := listed[name]; twice {
				t.Errorf("docs/settings.md lists %s twice", name)
			}
			listed[name] = match[2]
		}
	}
	for _, name := range want {
		shown, ok := listed[name]
		switch value := defaults[name]; {
		case !ok:
			t.Errorf("docs/settings.md doesn't list %s", name)
		case value == "" || strings.Contains(compose, "${"+name+":-"): // unset, or compose has its own
		case !strings.Contains(shown, value):
			t.Errorf("docs/settings.md says that the default of %s is%s, want %s", name, shown, value)
		}
	}
	for name := range listed {
		if !slices.Contains(want, name) {
			t.Errorf("docs/settings.md lists %s, which nothing reads", name)
		}
	}
}

var condition = regexp.MustCompile(`ReadyWhen\("([^"]+)"`)

// TestChecks checks that docs/operations.md explains each check that GET /api/health may show.
func TestChecks(t *testing.T) {
	page, found := read(t, "docs/operations.md"), 0
	for _, dir := range []string{"libs", "services"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			for _, match := range condition.FindAllStringSubmatch(string(code), -1) {
				found++
				if !strings.Contains(page, "`"+match[1]+"`") {
					t.Errorf("docs/operations.md doesn't explain the check %q of %s", match[1], path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d checks were found", found)
	}
}
