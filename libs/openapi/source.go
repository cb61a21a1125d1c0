package openapi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// Source finds what comments say of types and their fields, and which constants a type has.
type Source struct {
	module string // the path that all packages of the repository begin with: "github.com/rumi-ai/rumi/"
	root   string // the folder of the repository

	packages map[string]*sourcePackage // by path
}

type sourcePackage struct {
	types  map[string]*sourceType
	consts map[string][]string // type → its constants that are texts, in order
}

type sourceType struct {
	doc    string
	fields map[string]string // name → comment
}

// NewSource reads packages of a module whose folder is root when they are asked for. module ends with a slash.
func NewSource(module, root string) *Source {
	return &Source{module: module, root: root, packages: map[string]*sourcePackage{}}
}

// of is the package of a type; one without types where it is none of the repository's.
func (s *Source) of(t reflect.Type) (*sourcePackage, error) {
	path := t.PkgPath()
	if known := s.packages[path]; known != nil {
		return known, nil
	}
	p := &sourcePackage{types: map[string]*sourceType{}, consts: map[string][]string{}}
	s.packages[path] = p
	below, ours := strings.CutPrefix(path, s.module)
	if !ours {
		return p, nil
	}
	files, err := filepath.Glob(filepath.Join(s.root, below, "*.go"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read the source of %s: no Go files in %s", path, filepath.Join(s.root, below))
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("read the source of %s: %w", path, err)
		}
		p.read(file)
	}
	return p, nil
}

func (p *sourcePackage) read(file *ast.File) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				p.readType(spec, general)
			case *ast.ValueSpec:
				p.readConsts(spec, general.Tok)
			}
		}
	}
}

func (p *sourcePackage) readType(spec *ast.TypeSpec, decl *ast.GenDecl) {
	t := &sourceType{doc: spec.Doc.Text(), fields: map[string]string{}}
	if t.doc == "" {
		t.doc = decl.Doc.Text()
	}
	p.types[spec.Name.Name] = t
	body, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range body.Fields.List {
		said := strings.TrimSpace(field.Doc.Text())
		if said == "" {
			said = strings.TrimSpace(field.Comment.Text())
		}
		for _, name := range field.Names {
			t.fields[name.Name] = said
		}
	}
}

func (p *sourcePackage) readConsts(spec *ast.ValueSpec, kind token.Token) {
	of, ok := spec.Type.(*ast.Ident)
	if kind != token.CONST || !ok {
		return
	}
	for _, value := range spec.Values {
		if l, ok := value.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if text, err := strconv.Unquote(l.Value); err == nil {
				p.consts[of.Name] = append(p.consts[of.Name], text)
			}
		}
	}
}

// plainName is a type's name without its type arguments.
func plainName(t reflect.Type) string {
	name, _, _ := strings.Cut(t.Name(), "[")
	return name
}

// typeDoc is a type's comment, "" for none.
func (s *Source) typeDoc(t reflect.Type) (string, error) {
	p, err := s.of(t)
	if err != nil || p.types[plainName(t)] == nil {
		return "", err
	}
	return unwrap(p.types[plainName(t)].doc), nil
}

// fieldDoc is the comment of a field, "" for none.
func (s *Source) fieldDoc(t reflect.Type, field string) (string, error) {
	p, err := s.of(t)
	if err != nil || p.types[plainName(t)] == nil {
		return "", err
	}
	return unwrap(p.types[plainName(t)].fields[field]), nil
}

// constants are the values of a type's constants, if it is a type of texts.
func (s *Source) constants(t reflect.Type) ([]string, error) {
	if t.Kind() != reflect.String || t.PkgPath() == "" {
		return nil, nil
	}
	p, err := s.of(t)
	if err != nil {
		return nil, err
	}
	return p.consts[t.Name()], nil
}

// unwrap joins the lines of a comment's paragraphs.
func unwrap(comment string) string {
	var paragraphs []string
	for p := range strings.SplitSeq(strings.TrimSpace(comment), "\n\n") {
		paragraphs = append(paragraphs, strings.Join(strings.Fields(p), " "))
	}
	return strings.Join(paragraphs, "\n\n")
}
