package fault_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/openapi"
)

// statuses are those of the constructors that take a text.
var statuses = map[string]int{
	"Invalid": fault.KindInvalid.Status(), "Unauthenticated": fault.KindUnauthenticated.Status(), "Denied": fault.KindDenied.Status(),
	"NotFound": fault.KindNotFound.Status(), "Conflict": fault.KindConflict.Status(), "TooLarge": fault.KindTooLarge.Status(),
	"Limited": fault.KindLimited.Status(), "Unavailable": fault.KindUnavailable.Status(), "New": 0,
}

// made is a place in the code where a fault is made.
type made struct {
	where  string // file:line, from the root of the repository
	module string // "libs", "services/approval"
	format string // "" where it is no literal
	code   string // "" for none; "?" where it is no literal
	status int    // 0 where only the run tells
}

// allMade finds every call of a constructor in the code of libs and services.
func allMade(t *testing.T) []made {
	t.Helper()
	root := filepath.Join("..", "..")
	var found []made
	for _, top := range []string{"libs", "services"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files := token.NewFileSet()
			parsed, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, m := range madeIn(parsed, rel == filepath.Join("libs", "fault", "texts.go")) {
				m.at(rel, files)
				found = append(found, m.made)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 100 {
		t.Fatalf("found %d places only: this test doesn't see the code any more", len(found))
	}
	return found
}

type call struct {
	made
	pos token.Pos
}

func (c *call) at(file string, files *token.FileSet) {
	c.where = fmt.Sprintf("%s:%d", file, files.Position(c.pos).Line)
	c.module = "libs"
	if parts := strings.Split(file, string(filepath.Separator)); parts[0] == "services" {
		c.module = filepath.Join(parts[0], parts[1])
	}
}

// madeIn finds the calls of a file; own says that it is package fault's, where constructors have no qualifier.
func madeIn(file *ast.File, own bool) []call {
	coded := map[ast.Expr]string{} // what a .With follows, however far down the chain
	var found []call
	ast.Inspect(file, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := c.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "With" && len(c.Args) == 1 {
			for x := s.X; ; {
				coded[x] = literal(c.Args[0], "?")
				inner, ok := x.(*ast.CallExpr)
				if !ok {
					break
				}
				selected, ok := inner.Fun.(*ast.SelectorExpr)
				if !ok {
					break
				}
				x = selected.X
			}
		}
		name := constructor(c.Fun, own)
		status, known := statuses[name]
		if !known || len(c.Args) == 0 {
			return true
		}
		format := c.Args[0]
		if name == "New" {
			if format = c.Args[1]; selector(c.Args[0]) == "KindMethod" {
				status = fault.KindMethod.Status()
			}
		}
		found = append(found, call{made{format: literal(format, ""), code: coded[c], status: status}, c.Pos()})
		return true
	})
	return found
}

func constructor(fun ast.Expr, own bool) string {
	if id, ok := fun.(*ast.Ident); ok && own {
		return id.Name
	}
	if s, ok := fun.(*ast.SelectorExpr); ok {
		if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "fault" {
			return s.Sel.Name
		}
	}
	return ""
}

func selector(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func literal(e ast.Expr, otherwise string) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		if s, err := strconv.Unquote(l.Value); err == nil {
			return s
		}
	}
	return otherwise
}

var codeForm = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// A client that acts on error_code must find the same one wherever the same thing is wrong.
func TestEveryFaultHasACodeAndOneTextHasOne(t *testing.T) {
	byText := map[string]made{}
	for _, m := range allMade(t) {
		switch {
		case m.code == "":
			t.Errorf("%s: no code: add .With(\"…\") to %q", m.where, m.format)
		case m.code != "?" && !codeForm.MatchString(m.code):
			t.Errorf("%s: code %q, want snake_case", m.where, m.code)
		}
		if m.format == "" || m.format == "%s" {
			continue
		}
		first, again := byText[m.format]
		switch {
		case !again:
			byText[m.format] = m
		case first.code != m.code:
			t.Errorf("%s: %q has code %q, and %q at %s", m.where, m.format, m.code, first.code, first.where)
		case first.module != m.module:
			t.Errorf("%s: %q stands at %s, too: one constructor in libs/fault/texts.go makes it", m.where, m.format, first.where)
		}
	}
}

// readTable reads the table of codes in docs/api.md.
func readTable(t *testing.T) openapi.Map[openapi.Code] {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := openapi.ReadCodes(string(text))
	if err != nil {
		t.Fatalf("docs/api.md: %v", err)
	}
	return table
}

// dynamic are the codes that no constructor has beside it: those of a table, and those that a field's name is part of.
var dynamic = []string{
	"internal", "missing_name", "missing_pack_id", "missing_role", "missing_principal_id", "missing_permission_id", "missing_domain", "missing_port",
	"candidate_blocked", "candidate_installed", "candidate_not_installed",
	"invalid_http", "header_too_large", "unsupported_expectation", "unsupported_encoding", "unsupported_version", "https_required",
	"immutable", "mount_dead", "mount_point", "other_file_system", "permission_denied", "read_only", "sticky", "invalid_backup",
}

func TestCodesAreThoseOfTheTable(t *testing.T) {
	table := readTable(t)
	type use struct {
		statuses map[int]bool
		formats  []string
		where    string
	}
	used := map[string]*use{}
	for _, m := range allMade(t) {
		if m.code == "" || m.code == "?" {
			continue
		}
		if used[m.code] == nil {
			used[m.code] = &use{statuses: map[int]bool{}, where: m.where}
		}
		if m.status != 0 {
			used[m.code].statuses[m.status] = true
		}
		if m.format != "" {
			used[m.code].formats = append(used[m.code].formats, m.format)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(used)) {
		u := used[code]
		d, ok := table.Get(code)
		if !ok {
			t.Errorf("docs/api.md, \"Error codes\" has no row of %s (%v %q, %s)", code, slices.Sorted(maps.Keys(u.statuses)), u.formats, u.where)
			continue
		}
		for status := range u.statuses {
			if !slices.Contains(d.Statuses, status) {
				t.Errorf("docs/api.md says status %v of %s, which is answered with %d, too", d.Statuses, code, status)
			}
		}
		for _, text := range d.Texts {
			if !slices.ContainsFunc(u.formats, func(format string) bool { return begins(format, text) }) {
				t.Errorf("docs/api.md has the text %q of %s; the code has %q", text, code, u.formats)
			}
		}
	}
	for code := range table.All() {
		if used[code] == nil && !slices.Contains(dynamic, code) {
			t.Errorf("docs/api.md has a row of %s, which nothing answers", code)
		}
	}
}

var verb = regexp.MustCompile(`%[-+.0-9]*[a-z]`)

// begins says whether text, with … for what a format fills in, is how what is made of the format begins.
func begins(format, text string) bool {
	return strings.HasPrefix(verb.ReplaceAllString(format, "…"), strings.TrimSuffix(text, "…"))
}
