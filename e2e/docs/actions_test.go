package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// How the code writes the action of an audit entry.
var (
	actionCalls  = map[string]bool{"audit": true, "entry": true, "auditLife": true}          // functions that take it as their first or second argument
	actionMaps   = map[string]bool{"actions": true, "auditActions": true}                    // variables whose values it is
	actionFields = map[string]string{"Action": "", "action": "", "approval.action": "pack_"} // fields, with what the code puts before them
	actionConsts = regexp.MustCompile(`^[aA]ction[A-Z]`)                                     // constants of approval, likewise
	actionName   = regexp.MustCompile(`^[a-z]+(_[a-z]+)+$`)
)

// source finds the actions in the code of services and libraries.
type source struct {
	file     string            // that is read now
	actions  map[string]string // by action: the file
	literals map[string]bool   // all texts
}

// note notes an expression if it is a literal.
func (s *source) note(of ast.Expr, prefix string) {
	if value, ok := text(of); ok && actionName.MatchString(prefix+value) {
		s.actions[prefix+value] = s.file
	}
}

func text(of ast.Expr) (string, bool) {
	literal, ok := of.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil
}

// field notes what a field is set to, if it is one for actions.
func (s *source) field(name string, value ast.Expr) {
	if qualified := "approval." + name; strings.Contains(s.file, "services/approval/") && actionFields[qualified] != "" {
		name = qualified
	}
	if prefix, ok := actionFields[name]; ok {
		s.note(value, prefix)
	}
}

func (s *source) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BasicLit:
		if value, ok := text(n); ok {
			s.literals[value] = true
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok {
			s.field(key.Name, n.Value)
		}
	case *ast.AssignStmt:
		for i, left := range n.Lhs {
			if to, ok := left.(*ast.SelectorExpr); ok && i < len(n.Rhs) {
				s.field(to.Sel.Name, n.Rhs[i])
			}
		}
	case *ast.CallExpr:
		s.call(n)
	case *ast.ValueSpec:
		s.values(n)
	}
	return true
}

func (s *source) call(n *ast.CallExpr) {
	name := ""
	switch f := n.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
	}
	if actionCalls[name] {
		for _, argument := range n.Args[:min(2, len(n.Args))] {
			s.note(argument, "")
		}
	}
}

// values finds actions in the declarations of constants and maps.
func (s *source) values(n *ast.ValueSpec) {
	for i, value := range n.Values {
		if actionConsts.MatchString(n.Names[i].Name) {
			s.note(value, "pack_")
		}
		all, ok := value.(*ast.CompositeLit)
		if !ok || !actionMaps[n.Names[i].Name] {
			continue
		}
		for _, e := range all.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok {
				s.note(pair.Value, "")
			}
		}
	}
}

func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{actions: map[string]string{}, literals: map[string]bool{}}
	for _, folder := range []string{"services", "libs"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "libs/sandbox/") ||
				strings.Contains(path, "libs/auditfile/") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			s.file = path
			ast.Inspect(parsed, s.node)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestActionsAreDescribed compares the table of actions in docs/events.md with the code.
func TestActionsAreDescribed(t *testing.T) {
	code := readSource(t)
	_, table, found := strings.Cut(read(t, "docs/events.md"), "## What can happen: all actions")
	if !found {
		t.Fatal("docs/events.md has no table of actions")
	}
	described := map[string]bool{"events_missing": true} // which is in no file, and described further up
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, match := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[2], -1) {
			described[match[1]] = true
			if suffix := strings.TrimPrefix(match[1], "pack_"); !code.literals[match[1]] && !code.literals[suffix] {
				t.Errorf("docs/events.md has the action %s, which is nowhere in the code", match[1])
			}
		}
	}
	for action, file := range code.actions {
		if !described[action] {
			t.Errorf("docs/events.md lacks the action %s of %s", action, file)
		}
	}
	if len(code.actions) < 60 {
		t.Errorf("%d actions were found in the code, want 60 or more: does the test still know how they are written?", len(code.actions))
	}
}
