package review

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/libs/tree"
)

// maxWarnings is how many warnings a review lists.
const maxWarnings = 500

// severity lists the kinds of warnings, the worst first. Things that a person can't see come before things that one can.
var severity = []string{
	"entrypoint",    // what a started container runs is something else
	"pack_identity", // it calls itself another pack
	"bidirectional", // shows text in another order than it has
	"encoding",      // is read in another encoding than it is shown in
	"invisible",
	"private_use",
	"unassigned",
	"look_alike", // letters or names that may be taken for others
	"control",    // a terminal that shows it may do what it says
	"far_right",  // text far behind blanks
	"far_down",   // text far below blank lines
	"special_mode",
	"bytecode",
	"long_line",
	"executable",
	"binary",     // is no UTF-8 text
	"hidden",     // a name that begins with a dot
	"descriptor", // what is declared most likely doesn't do what was meant
}

// bulk lists the kinds that packs have many of for good reasons: all in one folder are one warning.
var bulk = map[string]bool{"bytecode": true, "long_line": true, "executable": true, "binary": true, "hidden": true}

// warnings collects warnings. All are counted; of each kind only as many are stored as can be listed.
type warnings struct {
	only    string // the one kind that is listed; "" for all
	counts  map[string]int
	listed  map[string][]Warning
	folders map[[2]string]int // kind and folder → index in kept
	more    bool
}

func newWarnings(only string) *warnings {
	return &warnings{only: only, counts: map[string]int{}, listed: map[string][]Warning{}, folders: map[[2]string]int{}}
}

func (w *warnings) add(one Warning) {
	w.counts[one.Kind]++
	if w.only != "" && w.only != one.Kind {
		return
	}
	key := [2]string{one.Kind, foldingFolder(one.Path)}
	fold := bulk[one.Kind] && w.only == ""
	if i, ok := w.folders[key]; fold && ok {
		folder := &w.listed[one.Kind][i]
		if folder.Count == 1 {
			folder.Detail = fmt.Sprintf("several files in this folder, the first is %s: %s", clip(folder.Path), folder.Detail)
			folder.Path, folder.Line = key[1], 0
		}
		folder.Count++
		return
	}
	if len(w.listed[one.Kind]) == maxWarnings {
		w.more = true
		return
	}
	if fold {
		w.folders[key] = len(w.listed[one.Kind])
		one.Count = 1
	}
	w.listed[one.Kind] = append(w.listed[one.Kind], one)
}

// foldingFolder is the folder under which a file's warnings of bulk are listed: the outermost hidden or cache folder that it is
// in, or else its own.
func foldingFolder(name string) string {
	dir := path.Dir(name)
	at := 0
	for part := range strings.SplitSeq(dir, "/") {
		at += len(part)
		if strings.HasPrefix(part, ".") && part != "." || part == "__pycache__" || part == "node_modules" {
			return dir[:at]
		}
		at++
	}
	return dir
}

// list returns the warnings, the worst first, and whether there are more.
func (w *warnings) list() (all []Warning, truncated bool) {
	all = []Warning{}
	for _, kind := range severity {
		all = append(all, w.listed[kind]...)
	}
	if len(all) > maxWarnings {
		return all[:maxWarnings], true
	}
	return all, w.more
}

// warnOfNames warns of the names and modes of a tree.
func (w *warnings) warnOfNames(m tree.Manifest) {
	alike := map[string]string{} // folder and skeleton → the first name with it
	for _, e := range m.Entries {
		if e.Path == "." {
			continue
		}
		warn := func(kind, format string, args ...any) {
			w.add(Warning{Path: e.Path, Kind: kind, Detail: fmt.Sprintf(format, args...), Count: 1})
		}
		name := path.Base(e.Path)
		if strings.HasPrefix(name, ".") {
			warn("hidden", "its name begins with a dot")
		}
		if disguised(name) || mixed(name) {
			warn("look_alike", "its name has letters of several scripts: %s", ascii(name))
		}
		key := path.Dir(e.Path) + "/" + skeleton(name)
		if other, ok := alike[key]; ok {
			warn("look_alike", "its name looks like that of %s", ascii(other))
		} else {
			alike[key] = name
		}
		warned := map[string]bool{}
		for c := range text.Hidden(name) {
			if kind := kindOf(c.Kind); kind != "" && !warned[kind] {
				warned[kind] = true
				warn(kind, "its name contains %v", c)
			}
		}
		if e.Kind != tree.File {
			continue
		}
		if e.Mode&0o7000 != 0 {
			warn("special_mode", "mode %04o", e.Mode)
		}
		if e.Mode&0o111 != 0 {
			warn("executable", "mode %04o", e.Mode)
		}
		if slices.Contains([]string{".pyc", ".pyo", ".pyd", ".so", ".class"}, strings.ToLower(path.Ext(name))) {
			warn("bytecode", "compiled code can't be reviewed")
		}
	}
}

// ascii is a name with everything that isn't ASCII escaped, so that nothing in it can be taken for something else.
func ascii(name string) string { return clip(fmt.Sprintf("%+q", name)) }

// warnOfContent warns of what the search of a file found.
func (w *warnings) warnOfContent(e tree.Entry, s *searched, source bool) {
	switch s.content {
	case Binary:
		w.add(Warning{Path: e.Path, Kind: "binary", Detail: fmt.Sprintf("%d bytes that are no text", e.Size), Count: 1})
	case Undecodable:
		w.add(Warning{Path: e.Path, Kind: "binary", Detail: fmt.Sprintf("%d bytes that are not UTF-8: another encoding, or compressed", e.Size), Count: 1})
	}
	for _, f := range s.findings {
		if s.content != Text && !source && f.kind != "encoding" {
			continue // in what is no text such characters are what chance makes of it
		}
		detail := fmt.Sprintf("line %d", f.line)
		if f.detail != "" {
			detail += ": " + f.detail
		}
		if f.count > 1 {
			detail += fmt.Sprintf("; %d in all", f.count)
		}
		w.add(Warning{Path: e.Path, Kind: f.kind, Detail: detail, Line: f.line, Count: f.count})
	}
}

// readAsSource says whether a program runs the file, or reads it as text, even if not all of it is text.
func readAsSource(e tree.Entry) bool {
	if e.Mode&0o111 != 0 {
		return true
	}
	switch strings.TrimPrefix(strings.ToLower(path.Ext(e.Path)), ".") {
	case "py", "pyw", "pyi", "pth", "sh", "bash", "js", "mjs", "cjs", "ts", "json", "toml", "yaml", "yml", "ini", "cfg", "txt", "md", "rst", "lock", "html", "css", "rb", "pl", "lua", "php":
		return true
	}
	return false
}
