package environment

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strings"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// stdlib is sys.stdlib_module_names of the Python that packs run on, 3.11.
//
//go:embed stdlib.txt
var stdlib string

// reserved are the top-level modules that an environment must not have. With one of them a package could replace code of Python
// or of Rumi in every process of the pack: modules of the standard library, those that Python imports when it starts, and those
// through which packs talk to Rumi.
var reserved = func() map[string]bool {
	names := map[string]bool{"sitecustomize": true, "usercustomize": true, "rumi_syscall": true, "rumi_capability": true, "rumi_worker": true}
	for name := range strings.Lines(stdlib) {
		names[strings.TrimSpace(name)] = true
	}
	return names
}()

// RefusedError says what must not be in an environment, or what is missing from it.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "vet environment: " + e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

const distInfo = ".dist-info"

// vet refuses what can be seen from names alone, and compares what is installed with what the lock lists: the same
// distributions, each in its version. read returns the content of a file of the tree.
func vet(m tree.Manifest, read func(name string) ([]byte, error), locked []lock.Requirement) ([]api.Package, error) {
	var distributions []string
	for _, e := range m.Entries {
		if e.Mode&0o7000 != 0 && e.Kind == tree.File {
			return nil, refuse("file %q has a special mode", e.Path)
		}
		if e.Path == "." || strings.Contains(e.Path, "/") {
			continue
		}
		if err := vetTop(e); err != nil {
			return nil, err
		}
		if strings.HasSuffix(e.Path, distInfo) && e.Kind == tree.Dir {
			distributions = append(distributions, e.Path)
		}
	}
	installed := map[string]api.Package{}
	for _, dir := range distributions {
		name := path.Join(dir, "METADATA")
		if !slices.ContainsFunc(m.Entries, func(e tree.Entry) bool { return e.Path == name && e.Kind == tree.File }) {
			return nil, refuse("%q has no METADATA", dir)
		}
		text, err := read(name)
		if err != nil {
			return nil, err
		}
		p, err := metadata(dir, text)
		if err != nil {
			return nil, err
		}
		key := lock.NormalizeName(p.Name)
		if _, twice := installed[key]; twice {
			return nil, refuse("%s is installed twice", p.Name)
		}
		installed[key] = p
	}
	return compare(installed, locked)
}

// vetTop checks one name directly in the environment.
func vetTop(e tree.Entry) error {
	lower := strings.ToLower(e.Path)
	for _, suffix := range []string{".pth", ".egg-link", ".egg", ".egg-info"} {
		if strings.HasSuffix(lower, suffix) {
			return refuse("%q would change what Python imports, or hides what is installed", e.Path)
		}
	}
	module, rest, hasSuffix := strings.Cut(e.Path, ".")
	importable := e.Kind == tree.Dir && !hasSuffix
	for _, suffix := range []string{"py", "pyc", "so", "pyd"} {
		importable = importable || e.Kind == tree.File && (rest == suffix || strings.HasSuffix(rest, "."+suffix))
	}
	if importable && reserved[module] {
		return refuse("%q takes the place of a module of Python or Rumi", e.Path)
	}
	return nil
}

// metadata reads name and version from a METADATA file, and checks that its folder's name says the same.
func metadata(dir string, text []byte) (api.Package, error) {
	var p api.Package
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() && lines.Text() != "" {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(field, "Name") && p.Name == "":
			p.Name = value
		case strings.EqualFold(field, "Version") && p.Version == "":
			p.Version = value
		}
	}
	name, version, _ := strings.Cut(strings.TrimSuffix(dir, distInfo), "-")
	stated, ok := lock.ParseVersion(p.Version)
	named, ok2 := lock.ParseVersion(strings.ReplaceAll(version, "_", "-"))
	if !ok || !ok2 || stated != named || lock.NormalizeName(p.Name) != lock.NormalizeName(name) {
		return p, refuse("METADATA in %q says %.60q %.60q", dir, p.Name, p.Version)
	}
	return p, nil
}

// compare returns the installed packages, by name, if they are exactly those of the lock.
func compare(installed map[string]api.Package, locked []lock.Requirement) ([]api.Package, error) {
	packages := make([]api.Package, 0, len(locked))
	for _, want := range locked {
		p, ok := installed[want.Key()]
		if !ok {
			return nil, refuse("%s is not installed", want)
		}
		delete(installed, want.Key())
		asked, _ := lock.ParseVersion(want.Version)
		if got, _ := lock.ParseVersion(p.Version); !asked.Matches(got) {
			return nil, refuse("%s is installed as %s", want, p.Version)
		}
		packages = append(packages, p)
	}
	for _, p := range installed {
		return nil, refuse("%s %s is installed but not listed in the lock", p.Name, p.Version)
	}
	slices.SortFunc(packages, func(a, b api.Package) int {
		return strings.Compare(lock.NormalizeName(a.Name), lock.NormalizeName(b.Name))
	})
	return packages, nil
}
