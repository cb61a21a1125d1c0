package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/jsonpos"
)

// Bounds of a document.
const (
	MaxBytes  = 1 << 20
	MinMemory = 16 << 20 // bytes: less starts no container (sandbox.MinLimits)

	maxPath       = 1024 // bytes of a mount's path, as in grants
	maxPermission = 128  // bytes of a permission, as in grants
)

// version is the only one there is.
const version = 1

// Roles are the roles that may have a section: those that may grant something. The slice is the caller's.
func Roles() []access.Role {
	return slices.DeleteFunc(access.Roles(), func(r access.Role) bool { return !r.May(access.GrantNetwork) })
}

// document is the file. A member that is absent has no ceiling; one that this version doesn't know is an error, since its author expects it to be
// enforced.
type document struct {
	Version jsontext.Value `json:"version"`
	rules   `json:",inline"`
	Roles   map[access.Role]rules `json:"roles"`
}

type rules struct {
	Network    *networkRules    `json:"network"`
	Capability *capabilityRules `json:"capability"`
	Pip        *pipRules        `json:"pip"`
	Containers *containerRules  `json:"containers"`
}

type networkRules struct {
	Domains  *lists[domain] `json:"domains"`
	Ports    []portRange    `json:"ports"`
	Wildcard *bool          `json:"wildcard"`
	Tunnels  *bool          `json:"tunnels"`
}

type lists[T any] struct {
	Allow []T `json:"allow"` // nil where it is absent: all that isn't denied
	Deny  []T `json:"deny"`
}

type capabilityRules struct {
	Permissions *lists[permission] `json:"permissions"`
	Mounts      []mountRule        `json:"mounts"`
}

type pipRules struct {
	Sdists *bool `json:"sdists"`
}

type containerRules struct {
	Memory memory `json:"memory"`
}

type mountRule struct {
	Path     folder `json:"path"`
	ReadOnly *bool  `json:"read_only"` // absent means true, as in grants
}

type (
	domain     struct{ hostname.Pattern }
	permission string
	folder     string
	memory     int64
)

// None is the policy without a ceiling.
func None() *Policy {
	p, err := Parse([]byte(`{"version": 1}` + "\n"))
	if err != nil {
		panic(err) // the document is above
	}
	return p
}

// Parse reads a document. The error says where it is wrong (line and column), what is there and what is wanted. It is an error if a member is
// unknown, has another type or is null, or if a pattern, a range or a path can't be read.
func Parse(text []byte) (*Policy, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("a policy of more than %d bytes", MaxBytes)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New(`the policy is empty (want at least {"version": 1}, which has no ceiling)`)
	}
	if err := rejectNull(text); err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(text, &doc, json.RejectUnknownMembers(true)); err != nil {
		return nil, explain(text, err)
	}
	switch {
	case doc.Version == nil:
		return nil, errors.New(`"version" is missing (want "version": 1)`)
	case string(doc.Version) != strconv.Itoa(version):
		return nil, at(text, "/version", fmt.Sprintf("a version that this Rumi doesn't know (want %d)", version))
	}
	return doc.compile(text)
}

func (doc *document) compile(text []byte) (*Policy, error) {
	sum := sha256.Sum256(text)
	p := &Policy{text: bytes.Clone(text), digest: "sha256:" + hex.EncodeToString(sum[:]), byRole: make(map[access.Role]section)}
	p.base = doc.rules.compile("")
	for _, role := range slices.Sorted(maps.Keys(doc.Roles)) {
		if !slices.Contains(Roles(), role) {
			return nil, at(text, jsontext.Pointer("/roles").AppendToken(string(role)),
				fmt.Sprintf("%.50q is no role that grants anything (want one of %v)", role, Roles()))
		}
		rules := doc.Roles[role]
		p.byRole[role] = rules.compile("roles." + string(role) + ".")
		p.narrows = append(p.narrows, p.byRole[role])
	}
	for _, r := range append(slices.Collect(maps.Values(doc.Roles)), doc.rules) {
		if r.Capability != nil && slices.ContainsFunc(r.Capability.Mounts, func(m mountRule) bool { return m.Path == "" }) {
			return nil, errors.New(`a mount without "path" (want {"path": "/srv/data", "read_only": true})`)
		}
	}
	return p, nil
}

func (r *rules) compile(prefix string) section {
	s := section{prefix: prefix}
	if n := r.Network; n != nil {
		s.domains, s.ports, s.wildcard, s.tunnels = compileDomains(n.Domains), mergePorts(n.Ports), n.Wildcard, n.Tunnels
	}
	if c := r.Capability; c != nil {
		s.permissions = compilePermissions(c.Permissions)
		if c.Mounts != nil {
			s.mounts = make([]Mount, len(c.Mounts))
		}
		for i, m := range c.Mounts {
			s.mounts[i] = Mount{Path: string(m.Path), ReadOnly: m.ReadOnly == nil || *m.ReadOnly}
		}
	}
	if r.Pip != nil {
		s.sdists = r.Pip.Sdists
	}
	if r.Containers != nil {
		s.memory = int64(r.Containers.Memory)
	}
	return s
}

func compileDomains(l *lists[domain]) *domainRule {
	if l == nil {
		return nil
	}
	set := func(list []domain) *hostname.Set {
		patterns := make([]hostname.Pattern, len(list))
		for i, d := range list {
			patterns[i] = d.Pattern
		}
		return hostname.NewSet(patterns...)
	}
	r := &domainRule{deny: set(l.Deny), shownAllow: shown5(l.Allow), shownDeny: shown5(l.Deny)}
	if l.Allow != nil {
		r.allow = set(l.Allow)
	}
	return r
}

func compilePermissions(l *lists[permission]) *permissionRule {
	if l == nil {
		return nil
	}
	set := func(list []permission) permissionSet {
		s := make(permissionSet, len(list))
		for _, p := range list {
			s[strings.TrimSuffix(string(p), "*")] = true
		}
		return s
	}
	r := &permissionRule{deny: set(l.Deny), shownAllow: shown5(l.Allow), shownDeny: shown5(l.Deny)}
	if l.Allow != nil {
		r.allow = set(l.Allow)
	}
	return r
}

// mergePorts sorts ranges and joins those that overlap or touch. nil stays nil: no ceiling.
func mergePorts(list []portRange) []portRange {
	if list == nil {
		return nil
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	merged := list[:0]
	for _, r := range list {
		if n := len(merged); n > 0 && r.first <= merged[n-1].last+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// UnmarshalJSONFrom reads a pattern as grants have it.
func (d *domain) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	text, err := readText(dec, "a domain in double quotes")
	if err != nil {
		return err
	}
	if d.Pattern, err = hostname.ParsePattern(text); err != nil {
		return wrong("%.300q is no domain (want a name such as api.example.com, *.example.com, an address or *)", text)
	}
	return nil
}

// UnmarshalJSONFrom reads 443 or "8000-8999".
func (r *portRange) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	text := string(value)
	if value.Kind() == '"' {
		if err := json.Unmarshal(value, &text); err != nil {
			return err
		}
		from, to, isRange := strings.Cut(text, "-")
		if isRange {
			r.first, r.last = port(from), port(to)
		}
	} else {
		r.first, r.last = port(text), port(text)
	}
	if r.first < 1 || r.last < r.first {
		return wrong(`%.50q is no port or range (want 443, or "8000-8999"; ports are 1 to 65535)`, text)
	}
	return nil
}

// port is 0 for a text that is no port.
func port(text string) int {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || strings.HasPrefix(text, "+") {
		return 0
	}
	return int(n)
}

var permissionForm = regexp.MustCompile(`\A(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)\z`)

// UnmarshalJSONFrom reads "secrets.get", "store.*" or "*".
func (p *permission) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	text, err := readText(dec, "a permission in double quotes")
	if err != nil {
		return err
	}
	if *p = permission(text); len(text) > maxPermission || !permissionForm.MatchString(text) {
		return wrong(`%.130q is no permission (want one such as secrets.get, store.*, or *)`, text)
	}
	return nil
}

// UnmarshalJSONFrom reads a clean path: absolute, or of a folder in user_data/shared.
func (f *folder) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	text, err := readText(dec, "a path in double quotes")
	if err != nil {
		return err
	}
	*f = folder(text)
	if text == "" || len(text) > maxPath || path.Clean(text) != text || text == ".." || strings.HasPrefix(text, "../") || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return wrong(`%.300q is no folder (want an absolute path such as /srv/data, or one in user_data/shared such as reports, without "..", and no slash at the end)`, text)
	}
	return nil
}

var memoryForm = regexp.MustCompile(`\A([1-9][0-9]{0,9})([kmg])\z`)

// UnmarshalJSONFrom reads "512m", as the engine's tools do: k, m and g are KiB, MiB and GiB.
func (m *memory) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	text, err := readText(dec, `a size such as "512m"`)
	if err != nil {
		return err
	}
	const want = `(want a size such as "512m" or "2g", at least "16m")`
	parts := memoryForm.FindStringSubmatch(text)
	if parts == nil {
		return wrong("%.50q is no size "+want, text)
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return err // the form bounds it
	}
	if *m = memory(n << map[string]int{"k": 10, "m": 20, "g": 30}[parts[2]]); *m < MinMemory {
		return wrong("%.50q is too little "+want, text)
	}
	return nil
}

func readText(dec *jsontext.Decoder, want string) (text string, err error) {
	value, err := dec.ReadValue()
	if err != nil {
		return "", err
	}
	if value.Kind() != '"' {
		return "", wrong("want %s", want)
	}
	return text, json.Unmarshal(value, &text)
}

// wrongError is a value that can't be read; its text is for the author of the policy.
type wrongError struct{ text string }

func (e *wrongError) Error() string { return e.text }

func wrong(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

// explain says where and why a document can't be read.
func explain(text []byte, err error) error {
	semantic, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return errors.New(jsonpos.Describe(text, err))
	}
	member := strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")
	if wrong, ok := errors.AsType[*wrongError](err); ok {
		return at(text, semantic.JSONPointer, wrong.text)
	}
	if errors.Is(err, json.ErrUnknownName) {
		return at(text, semantic.JSONPointer, fmt.Sprintf("%.100q is no rule of this version of Rumi, so it would not be enforced (docs/policy.md lists the rules)", member))
	}
	return at(text, semantic.JSONPointer, fmt.Sprintf("%.100q has the wrong type%s", member, wanted(semantic)))
}

// wanted names the JSON type that a member must have.
func wanted(err *json.SemanticError) string {
	if err.GoType == nil {
		return ""
	}
	switch kind := err.GoType.Kind().String(); kind {
	case "bool":
		return " (want true or false)"
	case "slice":
		return " (want a list)"
	case "struct", "map", "ptr":
		return " (want an object)"
	}
	return ""
}

// at is an error with the position of the value at pointer.
func at(text []byte, pointer jsontext.Pointer, what string) error {
	line, column := jsonpos.At(text, offsetOf(text, pointer))
	return fmt.Errorf("line %d, column %d: %s", line, column, what)
}

// offsetOf is where the value at pointer begins; 0 where there is none. Of the names of an object's members, that of pointer's last token counts.
func offsetOf(text []byte, pointer jsontext.Pointer) int64 {
	dec := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return 0
		}
		if dec.StackPointer() == pointer {
			length := int64(1)
			if kind := token.Kind(); kind == '"' || kind == '0' || kind == 't' || kind == 'f' || kind == 'n' {
				end := dec.InputOffset()
				return begin(text, end, kind)
			}
			return dec.InputOffset() - length
		}
	}
}

// begin is where the scalar that ends at end begins.
func begin(text []byte, end int64, kind jsontext.Kind) int64 {
	at := end - 1
	if kind == '"' {
		for at--; at > 0 && (text[at] != '"' || escaped(text, at)); at-- {
		}
		return max(at, 0)
	}
	for at > 0 && !bytes.ContainsRune([]byte(" \t\r\n,:["), rune(text[at-1])) {
		at--
	}
	return at
}

// escaped says whether the character at an offset of a JSON string has an odd number of backslashes before it.
func escaped(text []byte, at int64) bool {
	n := 0
	for at--; at >= 0 && text[at] == '\\'; at-- {
		n++
	}
	return n%2 == 1
}

// rejectNull refuses null, which decodes as an absent member: its author may have meant "nothing is allowed".
func rejectNull(text []byte) error {
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return nil // the end, or what Unmarshal will explain
		}
		if token.Kind() == 'n' {
			return at(text, dec.StackPointer(), "null is no rule (leave the member out for no ceiling; an empty list allows nothing)")
		}
	}
}
