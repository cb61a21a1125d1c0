package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"

	"github.com/rumi-ai/rumi/libs/spelling"
	"github.com/rumi-ai/rumi/libs/text"
)

// MaxWarnings bounds the warnings about one pack.
const MaxWarnings = 30

// handlersDir is where a pack has its capability handlers, relative to the folder of its descriptor.
const handlersDir = "share/capability_handlers"

// Warnings lists, for operator and author, the parts of a pack that most likely have another effect than meant: members that Rumi doesn't know,
// files that are named and missing, files that exist and aren't used. d is the pack's descriptor; files is its folder
// (os.Root.FS), or an approved tree. No file's content is read. A pack with warnings can be installed and approved; NoIdentity,
// which prevents an approval, is not among them.
func Warnings(d Descriptor, files fs.FS) []string {
	w := warner{d: d, files: files}
	name := path.Join(d.Base, File)
	for _, member := range d.Unknown {
		w.add("%s: %s", name, UnknownMember(member, knownMembers))
	}
	w.entrypoint()
	w.required()
	for _, dir := range []string{"", "backend"} {
		if list := path.Join(dir, "requirements.txt"); w.has(list) && !w.has(path.Join(dir, "requirements.lock")) {
			w.add("%s is not read; write exact versions to %s", list, path.Join(dir, "requirements.lock"))
		}
	}
	if more := len(w.all) - MaxWarnings; more > 0 {
		return append(w.all[:MaxWarnings], fmt.Sprintf("%d more", more))
	}
	return w.all
}

// warner collects the warnings about one pack.
type warner struct {
	d     Descriptor
	files fs.FS
	all   []string
}

func (w *warner) add(format string, args ...any) { w.all = append(w.all, fmt.Sprintf(format, args...)) }

// has says whether something exists at a path. If an error keeps that from being known it returns true, so that there is no false warning.
func (w *warner) has(name string) bool {
	_, err := fs.Stat(w.files, name)
	return !errors.Is(err, fs.ErrNotExist)
}

func (w *warner) entrypoint() {
	e := w.d.Entrypoint
	switch {
	case e.File != "":
		w.script("entrypoint", e.File)
	case len(e.Argv) > 0:
		i := slices.IndexFunc(e.Argv[1:], func(a string) bool { return strings.HasSuffix(a, ".py") })
		if i < 0 {
			return
		}
		// The command runs in the pack's folder; what leads out of it is its own affair.
		if script := path.Clean(e.Argv[1+i]); fs.ValidPath(script) {
			w.script("entrypoint's "+cut(e.Argv[0]), script)
		}
	case !w.has(path.Join(w.d.Base, handlersDir)):
		w.add("no entrypoint: a container of it will idle")
	}
}

// script warns of a file that is to be run and doesn't exist.
func (w *warner) script(what, name string) {
	info, err := fs.Stat(w.files, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.add("%s %s is not in the pack%s", what, forMessage(name), w.similar(name))
	case err == nil && info.IsDir():
		w.add("%s %s is a folder", what, forMessage(name))
	}
}

// similar names a file that may be meant instead: one in the same folder whose name differs only by case or Unicode form, or
// one of the same name in the descriptor's folder.
func (w *warner) similar(name string) string {
	entries, _ := fs.ReadDir(w.files, path.Dir(name))
	for _, e := range entries {
		switch base := path.Base(name); {
		case norm.NFC.String(e.Name()) == norm.NFC.String(base):
			return " (a file of that name in another Unicode form is)"
		case strings.EqualFold(e.Name(), base):
			return fmt.Sprintf(" (%s?)", forMessage(path.Join(path.Dir(name), e.Name())))
		}
	}
	if other := path.Join("backend", name); w.d.Base == "backend" && w.has(other) {
		return fmt.Sprintf(" (%s? It is relative to the pack's folder)", forMessage(other))
	}
	return ""
}

var (
	secretKey  = regexp.MustCompile(`\A[A-Z0-9_]{1,64}\z`)
	domainName = regexp.MustCompile(`\A(\*|(\*\.)?[^\s/:@?#*]+)\z`)
)

// required warns of requests that can't be granted under that name.
func (w *warner) required() {
	for _, key := range w.d.RequiredSecrets {
		if !secretKey.MatchString(key) {
			w.add("required_secrets: '%s' can't be the key of a secret (1 to 64 of A-Z, 0-9 and _)", forMessage(key))
		}
	}
	for _, domain := range w.d.RequiredNetwork.AllowedDomains {
		if !domainName.MatchString(domain) {
			w.add("required_network: '%s' is no domain (want the name alone, such as api.example.com; ports go to allowed_ports)", forMessage(domain))
		}
	}
	n := w.d.RequiredNetwork
	switch {
	case len(n.AllowedDomains) > 0 && len(n.AllowedPorts) == 0:
		w.add("required_network names domains and no allowed_ports (443 for https)")
	case len(n.AllowedDomains) == 0 && len(n.AllowedPorts) > 0:
		w.add("required_network names ports and no allowed_domains")
	}
}

// forMessage makes a stranger's string fit for a message.
func forMessage(s string) string { return text.Escape(cut(s)) }

// UnknownMember says that a member of a JSON object isn't known, and which known one may be meant: "'entry_point' is not known
// (entrypoint?)". A member inside another is named with dots: "a.b".
func UnknownMember(member string, known []string) string {
	best := spelling.Nearest(member, known, plainName)
	if best == "" {
		return fmt.Sprintf("'%s' is not known", forMessage(member))
	}
	return fmt.Sprintf("'%s' is not known (%s?)", forMessage(member), best)
}

// plainName is a member's name without what misspellings differ in: case, underscores, hyphens, spaces.
func plainName(s string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(cut(s)))
}

// knownMembers are the members of a descriptor, and of the objects in it whose members are known.
var knownMembers = append(Members(reflect.TypeFor[Descriptor](), ""), Members(reflect.TypeFor[Network](), "required_network.")...)

// Members lists the JSON names of a struct's fields, each with a prefix.
func Members(t reflect.Type, prefix string) (names []string) {
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, prefix+name)
		}
	}
	return names
}

// UnknownMembers lists the members of a valid JSON object that aren't known, in order. It also looks into those objects in it
// of which known has members: "a.b" is the member b of the object in member a.
func UnknownMembers(object []byte, known []string) []string {
	return unknownMembers(object, "", known)
}

func unknownMembers(object []byte, prefix string, known []string) (unknown []string) {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if open, err := dec.ReadToken(); err != nil || open.Kind() != '{' {
		return nil
	}
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil {
			return unknown
		}
		name := prefix + token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return unknown
		}
		inside := slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, name+".") })
		switch {
		case !slices.Contains(known, name):
			unknown = append(unknown, name)
		case inside:
			unknown = append(unknown, unknownMembers(value, name+".", known)...)
		}
	}
	return unknown
}
