package lock

import (
	"regexp"
	"strconv"
	"strings"
)

// Version is a version of PEP 440, normalised: equal versions are equal values.
type Version struct {
	public string // normalised, without zeros at the end of the release
	local  string // normalised; "" for none
}

// The pattern of PEP 440, appendix B, without the white space around it and its spelling "v1.0".
var version = regexp.MustCompile(`\A(?:([0-9]+)!)?([0-9]+(?:\.[0-9]+)*)` +
	`(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?([0-9]+)?)?` +
	`(?:-([0-9]+)|[-_.]?(post|rev|r)[-_.]?([0-9]+)?)?` +
	`(?:[-_.]?(dev)[-_.]?([0-9]+)?)?` +
	`(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?\z`)

// maxVersion bounds a version, in bytes.
const maxVersion = 128

var phases = map[string]string{"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}

// ParseVersion reads a version. A wildcard is none.
func ParseVersion(s string) (Version, bool) {
	if len(s) > maxVersion {
		return Version{}, false
	}
	m := version.FindStringSubmatch(strings.ToLower(s))
	if m == nil {
		return Version{}, false
	}
	epoch, release, phase, phaseNumber := m[1], m[2], m[3], m[4]
	implicitPost, post, postNumber, dev, devNumber, local := m[5], m[6], m[7], m[8], m[9], m[10]

	var out strings.Builder
	out.WriteString(number(epoch) + "!")
	parts := strings.Split(release, ".")
	for i, part := range parts {
		parts[i] = number(part)
	}
	for len(parts) > 1 && parts[len(parts)-1] == "0" {
		parts = parts[:len(parts)-1]
	}
	out.WriteString(strings.Join(parts, "."))
	if phase != "" {
		out.WriteString(phases[phase] + number(phaseNumber))
	}
	switch {
	case implicitPost != "":
		out.WriteString(".post" + number(implicitPost))
	case post != "":
		out.WriteString(".post" + number(postNumber))
	}
	if dev != "" {
		out.WriteString(".dev" + number(devNumber))
	}
	locals := separators.Split(local, -1)
	for i, part := range locals {
		if _, err := strconv.ParseUint(part, 10, 64); err == nil {
			locals[i] = number(part)
		}
	}
	return Version{out.String(), strings.Join(locals, ".")}, true
}

// number removes leading zeros; an absent number is 0.
func number(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return "0"
	}
	return digits
}

// Matches says whether an installed version satisfies ==v (PEP 440, "Version matching"). A local part counts only if v has one.
func (v Version) Matches(installed Version) bool {
	return v.public == installed.public && (v.local == "" || v.local == installed.local)
}
