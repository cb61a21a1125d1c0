package sandbox

import (
	"fmt"
	"strings"
)

// advisory is a published vulnerability that leads out of containers, or around what isolates them.
type advisory struct {
	cve       string
	component string   // as the engine names it: Engine, containerd, runc
	since     string   // the first affected version; "" for all before the fix
	fixed     []string // the first fixed version of each release line that got the fix, oldest first
	what      string
}

// advisories are those that matter to what this package makes: hardened containers of a local image, with bind mounts.
// Sources: the security advisories of opencontainers/runc, containerd/containerd and moby/moby.
var advisories = []advisory{
	{"CVE-2019-5736", "runc", "", []string{"1.0.0-rc7"}, "a container can overwrite runc on the host"},
	{"CVE-2021-30465", "runc", "", []string{"1.0.0-rc95"}, "mounts can be made to lead out of the container"},
	{"CVE-2023-28642", "runc", "", []string{"1.1.5"}, "AppArmor can be bypassed with a link at /proc"},
	{"CVE-2024-21626", "runc", "1.0.0-rc93", []string{"1.1.12"}, "a leaked descriptor leads to the host's file system"},
	{"CVE-2024-45310", "runc", "", []string{"1.1.14", "1.2.0-rc3"}, "empty files can be made on the host"},
	{"CVE-2025-31133", "runc", "", []string{"1.2.8", "1.3.3", "1.4.0-rc3"}, "masked paths can be replaced by links to the host's"},
	{"CVE-2025-52565", "runc", "", []string{"1.2.8", "1.3.3", "1.4.0-rc3"}, "the console's bind mount can be led elsewhere"},
	{"CVE-2025-52881", "runc", "", []string{"1.2.8", "1.3.3", "1.4.0-rc3"}, "writes to /proc can be led elsewhere"},
	{"CVE-2020-15257", "containerd", "", []string{"1.3.9", "1.4.3"}, "the shim's abstract socket can be reached in the host's network"},
	{"CVE-2021-41103", "containerd", "", []string{"1.4.11", "1.5.7"}, "users of the host can reach containers' files"},
	{"CVE-2023-25173", "containerd", "", []string{"1.5.18", "1.6.18"}, "supplementary groups are not set up properly"},
	{"CVE-2024-25621", "containerd", "", []string{"1.7.29", "2.0.7", "2.1.5", "2.2.0"}, "users of the host can reach its folders"},
	{"CVE-2019-14271", "Engine", "19.03.0", []string{"19.03.1"}, "docker cp can run a container's code as root"},
	{"CVE-2021-41091", "Engine", "", []string{"20.10.9"}, "users of the host can reach containers' files"},
	{"CVE-2022-36109", "Engine", "", []string{"20.10.18"}, "supplementary groups are not set up properly"},
	{"CVE-2024-41110", "Engine", "19.03.0", []string{"23.0.15", "25.0.6", "26.1.5", "27.1.1"}, "authorization plugins can be bypassed"},
}

// Warning is something that weakens the isolation of containers.
type Warning struct {
	Code    string // known_vulnerability, version_unreadable, no_seccomp, no_memory_limit, …
	Message string // for people

	// Of known_vulnerability only.
	CVE          string
	Component    string
	Version      string
	FixedIn      []string
	MayBePatched bool // the version is a distribution's, which fixes faults without changing upstream's number
}

// affected says whether a version has the vulnerability. In a release line that got a fix, the versions before the fix have it. A line that got
// none has it if it is older than the newest line that did.
func (a advisory) affected(v version) bool {
	parse := func(text string) version {
		v, ok := parseVersion(text)
		if !ok {
			panic("advisories: " + text)
		}
		return v
	}
	if a.since != "" && v.compare(parse(a.since)) < 0 {
		return false
	}
	for _, text := range a.fixed {
		if fixed := parse(text); v.line(fixed) == 0 {
			return v.compare(fixed) < 0
		}
	}
	return v.line(parse(a.fixed[len(a.fixed)-1])) < 0
}

// vulnerabilities returns a warning for each advisory that affects a component's version.
func vulnerabilities(component, text string) []Warning {
	v, ok := parseVersion(text)
	if !ok {
		return []Warning{{Code: "version_unreadable", Component: component, Version: text,
			Message: fmt.Sprintf("the version of %s, %q, tells nothing of its known faults", component, text)}}
	}
	var found []Warning
	for _, a := range advisories {
		if a.component != component || !a.affected(v) {
			continue
		}
		message := fmt.Sprintf("%s %s: %s (%s); fixed in %s", component, text, a.what, a.cve, strings.Join(a.fixed, ", "))
		if v.distributor != "" {
			message += "; may be patched by the distribution"
		}
		found = append(found, Warning{Code: "known_vulnerability", Message: message, CVE: a.cve, Component: component,
			Version: text, FixedIn: a.fixed, MayBePatched: v.distributor != ""})
	}
	return found
}
