package generate

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// endpoint is where the source declares a route.
type endpoint struct {
	Package string // "approval"
	Var     string // in it: "Approve", "Candidates.List"
}

// id is the operationId: "approvalApprove", "pipCandidatesList".
func (e endpoint) id() string { return e.Package + e.method() }

// method is the name of the client's method: "Approve", "CandidatesList".
func (e endpoint) method() string { return strings.ReplaceAll(e.Var, ".", "") }

// sharedEndpoints is the package that declares endpoints for several services, which name a prefix of the paths.
const sharedEndpoints = "libs/candidate/wire"

// names finds the variables of endpoints in the source, by the route's name: "POST /api/packs/{pack_id}/approve". A program can't see the names
// of its own variables otherwise.
func names(root string) (map[string]endpoint, error) {
	shared, err := fieldsOf(filepath.Join(root, sharedEndpoints))
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(root, "api", "*", "*.go"))
	if err != nil {
		return nil, err
	}
	found := map[string]endpoint{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("read endpoints: %w", err)
		}
		for variable, call := range variables(file) {
			of := endpoint{filepath.Base(filepath.Dir(name)), variable}
			switch fn, args := called(call); fn {
			case "New":
				found[routeName(args, "")] = of
			case "NewEndpoints":
				prefix, _ := literal(args[0])
				for field, declared := range shared {
					found[routeName(declared, prefix)] = endpoint{of.Package, of.Var + "." + field}
				}
			}
		}
	}
	return found, nil
}

// variables are the variables of a file with the calls that they are set to.
func variables(file *ast.File) map[string]*ast.CallExpr {
	all := map[string]*ast.CallExpr{}
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.VAR {
			continue
		}
		for _, spec := range general.Specs {
			value := spec.(*ast.ValueSpec)
			for i, name := range value.Names {
				if i < len(value.Values) {
					if call, ok := value.Values[i].(*ast.CallExpr); ok {
						all[name.Name] = call
					}
				}
			}
		}
	}
	return all
}

// fieldsOf are the arguments of route.New of the fields in the struct that NewEndpoints of a package returns, by the field's name.
func fieldsOf(folder string) (map[string][]ast.Expr, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	fields := map[string][]ast.Expr{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("read endpoints: %w", err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			pair, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, isName := pair.Key.(*ast.Ident)
			call, isCall := pair.Value.(*ast.CallExpr)
			if isName && isCall {
				if fn, args := called(call); fn == "New" {
					fields[key.Name] = args
				}
			}
			return true
		})
	}
	return fields, nil
}

// called is the function at the beginning of a chain of calls, without package and type arguments, and its arguments:
// route.New[A, B]("GET", …).Fails(…) is New.
func called(call *ast.CallExpr) (name string, args []ast.Expr) {
	fun := call.Fun
	switch indexed := fun.(type) {
	case *ast.IndexExpr:
		fun = indexed.X
	case *ast.IndexListExpr:
		fun = indexed.X
	}
	selected, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return "", nil
	}
	if inner, chained := selected.X.(*ast.CallExpr); chained {
		return called(inner)
	}
	return selected.Sel.Name, call.Args
}

// routeName is a route's name by the arguments of route.New. A path that isn't one literal is the prefix and a literal.
func routeName(args []ast.Expr, prefix string) string {
	if len(args) < 2 {
		return ""
	}
	method, _ := literal(args[0])
	if path, ok := literal(args[1]); ok {
		return method + " " + path
	}
	if sum, ok := args[1].(*ast.BinaryExpr); ok {
		rest, _ := literal(sum.Y)
		return method + " " + prefix + rest
	}
	return ""
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}
