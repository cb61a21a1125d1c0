package generate

import (
	"bytes"
	"cmp"
	"fmt"
	"go/format"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"text/template"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/libs/route"
)

// method is a method of the client, as the template writes it.
type method struct {
	Group, Name, Endpoint string
	Doc                   string
	Request, Response     string // as Go writes them; Request is "" for none
	Event                 string // of FollowX; "" for none
	Streams               bool   // it follows, and nothing else
	Upload                *uploadMethod
}

// uploadMethod is the method that sends a form.
type uploadMethod struct {
	Field string   // of the file
	Texts []string // the other fields
}

// client makes the source of api/client/endpoints.go: a method for each public endpoint.
func client(root string) ([]byte, error) {
	declared, err := names(root)
	if err != nil {
		return nil, err
	}
	imports := map[string]bool{"context": true}
	var methods []method
	for _, r := range api.Routes().Public() {
		if r.Document.Text != nil {
			continue // for programs of others, that know the text: a Prometheus
		}
		of, ok := declared[r.Name()]
		if !ok {
			return nil, fmt.Errorf("make the client: the source of api/ declares no variable of %s", r.Name())
		}
		m, err := newMethod(&r, of, imports)
		if err != nil {
			return nil, fmt.Errorf("make the client: %s: %w", r.Name(), err)
		}
		methods = append(methods, m)
	}
	slices.SortFunc(methods, func(a, b method) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Name, b.Name))
	})
	var out bytes.Buffer
	if err := clientTemplate.Execute(&out, map[string]any{"Imports": grouped(imports), "Groups": groupsOf(methods), "Methods": methods}); err != nil {
		return nil, fmt.Errorf("make the client: %w", err)
	}
	return format.Source(out.Bytes())
}

func newMethod(r *route.Route, of endpoint, imports map[string]bool) (method, error) {
	imports[module+"api/"+of.Package] = true
	m := method{
		Group: strings.ToUpper(of.Package[:1]) + of.Package[1:], Name: of.method(), Endpoint: of.Package + "." + of.Var,
		Doc: comment(fmt.Sprintf("%s sends %s: %s. It needs %s.", of.method(), r.Name(), lowerFirst(r.Summary), r.Verb)),
	}
	if codes := r.Document.Codes; len(codes) > 0 {
		m.Doc += "//\n" + comment("Error codes of its own: "+strings.Join(codes, ", ")+".")
	}
	m.Streams = r.Streams()
	var err error
	if r.Request.NumField() > 0 {
		if m.Request, err = typeName(r.Request, imports); err != nil {
			return m, err
		}
	}
	if !m.Streams {
		if m.Response, err = typeName(r.Response, imports); err != nil {
			return m, err
		}
	}
	if r.Document.Event != nil {
		imports["iter"] = true
		if m.Event, err = typeName(r.Document.Event, imports); err != nil {
			return m, err
		}
	}
	if r.Document.Form != nil {
		imports["io"] = true
		m.Upload = uploadOf(r.Document.Form)
	}
	return m, nil
}

// comment wraps a text into lines of a comment.
func comment(text string) string {
	const width = 140
	var out strings.Builder
	line := "//"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width {
			out.WriteString(line + "\n")
			line = "//"
		}
		line += " " + word
	}
	out.WriteString(line + "\n")
	return out.String()
}

func uploadOf(form reflect.Type) *uploadMethod {
	u := &uploadMethod{}
	for i := range form.NumField() {
		name, _, _ := strings.Cut(form.Field(i).Tag.Get("json"), ",")
		if form.Field(i).Type == reflect.TypeFor[route.File]() {
			u.Field = name
		} else {
			u.Texts = append(u.Texts, name)
		}
	}
	return u
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// typeName is a type as Go writes it in another package; what it needs is added to imports.
func typeName(t reflect.Type, imports map[string]bool) (string, error) {
	switch {
	case t.Kind() == reflect.Slice && t.Name() == "":
		inner, err := typeName(t.Elem(), imports)
		return "[]" + inner, err
	case t.Kind() == reflect.Pointer:
		inner, err := typeName(t.Elem(), imports)
		return "*" + inner, err
	case t.PkgPath() == "" && t.Name() != "":
		return t.Name(), nil
	case t.Name() == "":
		return "", fmt.Errorf("the type %v has no name", t)
	}
	imports[t.PkgPath()] = true
	name, args, generic := strings.Cut(t.Name(), "[")
	name = path.Base(t.PkgPath()) + "." + name
	if !generic {
		return name, nil
	}
	var short []string
	for arg := range strings.SplitSeq(strings.TrimSuffix(args, "]"), ",") {
		dot := strings.LastIndex(arg, ".")
		imports[arg[:dot]] = true
		short = append(short, path.Base(arg))
	}
	return name + "[" + strings.Join(short, ", ") + "]", nil
}

// grouped are the imports in two groups: of the standard library, and of this repository.
func grouped(imports map[string]bool) [][]string {
	var standard, own []string
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		if strings.HasPrefix(name, module) {
			own = append(own, name)
		} else {
			standard = append(standard, name)
		}
	}
	return [][]string{standard, own}
}

func groupsOf(methods []method) []string {
	var groups []string
	for _, m := range methods {
		if !slices.Contains(groups, m.Group) {
			groups = append(groups, m.Group)
		}
	}
	return groups
}

var clientTemplate = template.Must(template.New("client").Parse(`// Code generated by api/internal/generate from the endpoints in api/. DO NOT EDIT.

package client

import (
{{- range .Imports}}
{{range .}}	"{{.}}"
{{end}}{{end -}}
)

// groups are the endpoints by the package that declares them.
type groups struct {
{{- range .Groups}}
	{{.}} {{.}}
{{- end}}
}

func newGroups(c *Client) groups {
	return groups{
{{- range .Groups}}
		{{.}}: {{.}}{c},
{{- end}}
	}
}
{{range .Groups}}
// {{.}} calls the endpoints of the package {{.}} under api/.
type {{.}} struct{ client *Client }
{{end}}
{{range .Methods}}
{{.Doc}}{{if .Streams}}//
// It yields each event as it comes, until the server ends the stream, ctx ends or the loop is left. An error is the last that is yielded.
func (g {{.Group}}) {{.Name}}(ctx context.Context, req {{.Request}}) iter.Seq2[{{.Event}}, error] {
	return Follow[{{.Event}}](ctx, g.client, {{.Endpoint}}, req)
}
{{else}}func (g {{.Group}}) {{.Name}}(ctx context.Context{{with .Request}}, req {{.}}{{end}}) ({{.Response}}, error) {
	return Call(ctx, g.client, {{.Endpoint}}, {{if .Request}}req{{else}}struct{}{}{{end}})
}
{{end}}
{{- if and .Event (not .Streams)}}
// Follow{{.Name}} is {{.Name}} with follow=true: it yields each event as it comes, until the server ends the stream, ctx ends or the loop is left. An
// error is the last that is yielded.
func (g {{.Group}}) Follow{{.Name}}(ctx context.Context, req {{.Request}}) iter.Seq2[{{.Event}}, error] {
	req.Follow = true
	return Follow[{{.Event}}](ctx, g.client, {{.Endpoint}}, req)
}
{{end}}
{{if .Upload}}
// Upload{{.Name}} is {{.Name}} with the file in the request itself. The file is streamed; name is the file name that the server is told.
func (g {{.Group}}) Upload{{.Name}}(ctx context.Context, name string, {{.Upload.Field}} io.Reader{{range .Upload.Texts}}, {{.}} string{{end}}) ({{.Response}}, error) {
	return Upload(ctx, g.client, {{.Endpoint}}, "{{.Upload.Field}}", name, {{.Upload.Field}}, map[string]string{ {{- range .Upload.Texts}}"{{.}}": {{.}}, {{end}} })
}
{{end}}
{{- end}}
`))
