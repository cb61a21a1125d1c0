package sandbox

import (
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]struct {
		version     string
		distributor string
	}{
		"28.5.2":                      {"28.5.2", ""},
		"20.10.24+dfsg1":              {"20.10.24", "+dfsg1"},
		"1.1.5+ds1":                   {"1.1.5", "+ds1"},
		"1.6.20~ds1":                  {"1.6.20", "~ds1"},
		"1.6.20~ds1-1+deb12u3":        {"1.6.20", "~ds1-1+deb12u3"},
		"v1.7.27":                     {"1.7.27", ""},
		"1.2.5":                       {"1.2.5", ""},
		"v1.2.5-0-g59923ef":           {"1.2.5", ""},
		"1.0.0-rc93":                  {"1.0.0-rc.93", ""},
		"1.0.0~rc93+ds1":              {"1.0.0-rc.93", "+ds1"},
		"1.0.0-rc93+ds1-5+deb11u5":    {"1.0.0-rc.93", "+ds1-5+deb11u5"},
		"1.4.0-rc.3":                  {"1.4.0-rc.3", ""},
		"2.0.0-beta.1":                {"2.0.0-beta.1", ""},
		"1.1.12-0ubuntu2~22.04.1":     {"1.1.12", "-0ubuntu2~22.04.1"},
		"27.5.1-0ubuntu3~24.04.2":     {"27.5.1", "-0ubuntu3~24.04.2"},
		"18.09.1-ce":                  {"18.9.1", ""},
		"19.03.13-ce-dev":             {"19.3.13", ""},
		"1.3.0-rc.1+dev":              {"1.3.0-rc.1", ""},
		"1.13.1":                      {"1.13.1", ""},
		"1.2":                         {"1.2.0", ""},
		"4:1.1.12-3.module+el9.4":     {"", ""}, // an epoch: not how a component names itself
		"1.1.12-3.module+el9.4":       {"1.1.12", "-3.module+el9.4"},
		"library-import":              {"", ""},
		"dev":                         {"", ""},
		"":                            {"", ""},
		"master-dockerproject-2020":   {"", ""},
		"2d0083d657f82c47044c8d3948":  {"", ""},
		"1.2.3456789":                 {"", ""},
		"99999999999999999999.1.1":    {"", ""},
		"1.2.3\n":                     {"", ""},
		"unknown":                     {"", ""},
		"0.0.0-20240717110456-abcdef": {"0.0.0", "-20240717110456-abcdef"},
	} {
		v, ok := parseVersion(text)
		if ok != (want.version != "") || ok && (v.String() != want.version || v.distributor != want.distributor) {
			t.Errorf("%q is %v from %q (%v), want %s from %q", text, v, v.distributor, ok, want.version, want.distributor)
		}
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	order := []string{"1.0.0-alpha.2", "1.0.0-beta.1", "1.0.0-rc7", "1.0.0-rc93", "1.0.0-rc.95", "1.0.0", "1.0.1", "1.1.5+ds1", "1.1.12",
		"1.2.0-rc.3", "1.2.0", "1.10.0", "2.0.0", "18.09.9", "19.03.0", "20.10.24+dfsg1"}
	for i, a := range order {
		for j, b := range order {
			va, _ := parseVersion(a)
			vb, _ := parseVersion(b)
			if got := va.compare(vb); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("compare %s with %s: %d, want the order of the list", a, b, got)
			}
		}
	}
}

func TestVulnerabilities(t *testing.T) {
	for _, c := range []struct{ component, version, want string }{
		{"runc", "1.0.0-rc6", "CVE-2019-5736 CVE-2021-30465 CVE-2023-28642 CVE-2024-45310 CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.0.0~rc93+ds1", "CVE-2021-30465? CVE-2023-28642? CVE-2024-21626? CVE-2024-45310? CVE-2025-31133? CVE-2025-52565? CVE-2025-52881?"},
		{"runc", "1.1.4", "CVE-2023-28642 CVE-2024-21626 CVE-2024-45310 CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.1.5+ds1", "CVE-2024-21626? CVE-2024-45310? CVE-2025-31133? CVE-2025-52565? CVE-2025-52881?"},
		{"runc", "1.1.11", "CVE-2024-21626 CVE-2024-45310 CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.1.12", "CVE-2024-45310 CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.1.15", "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.2.0-rc.2", "CVE-2024-45310 CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.2.7", "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.2.8", ""},
		{"runc", "v1.3.2-0-gaeabe4e", "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.3.3", ""},
		{"runc", "1.4.0-rc.2", "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881"},
		{"runc", "1.4.0-rc.3", ""},
		{"runc", "1.4.0", ""},
		{"runc", "1.5.0", ""},
		{"containerd", "1.2.13", "CVE-2020-15257 CVE-2021-41103 CVE-2023-25173 CVE-2024-25621"},
		{"containerd", "1.6.20~ds1", "CVE-2024-25621?"},
		{"containerd", "v1.7.28", "CVE-2024-25621"},
		{"containerd", "1.7.29", ""},
		{"containerd", "2.1.4", "CVE-2024-25621"},
		{"containerd", "2.2.0-rc.0", "CVE-2024-25621"},
		{"containerd", "2.2.1", ""},
		{"Engine", "18.09.9", "CVE-2021-41091 CVE-2022-36109"},
		{"Engine", "19.03.0", "CVE-2019-14271 CVE-2021-41091 CVE-2022-36109 CVE-2024-41110"},
		{"Engine", "20.10.24+dfsg1", "CVE-2024-41110?"},
		{"Engine", "23.0.14", "CVE-2024-41110"},
		{"Engine", "23.0.15", ""},
		{"Engine", "24.0.9", "CVE-2024-41110"}, // that line was never mended
		{"Engine", "26.1.5", ""},
		{"Engine", "27.1.0", "CVE-2024-41110"},
		{"Engine", "28.2.2", ""},
		{"Engine", "library-import", "version_unreadable"},
	} {
		var found []string
		for _, w := range vulnerabilities(c.component, c.version) {
			switch {
			case w.CVE == "":
				found = append(found, w.Code)
			case w.MayBePatched:
				found = append(found, w.CVE+"?")
			default:
				found = append(found, w.CVE)
			}
			if !strings.Contains(w.Message, c.version) || w.MayBePatched != strings.Contains(w.Message, "may be patched by the distribution") {
				t.Errorf("%s %s: the warning is %q, want it to name the version, and to say if the distribution may have patched it", c.component, c.version, w.Message)
			}
		}
		if got := strings.Join(found, " "); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.component, c.version, got, c.want)
		}
	}
}

func TestAdvisoriesAreInOrder(t *testing.T) {
	for _, a := range advisories {
		var last version
		for _, text := range a.fixed {
			v, ok := parseVersion(text)
			if !ok || v.compare(last) <= 0 {
				t.Errorf("%s: the versions in which it is fixed are %v, want them in order", a.cve, a.fixed)
			}
			last = v
		}
		if _, ok := parseVersion(a.since); a.since != "" && !ok || len(a.fixed) == 0 {
			t.Errorf("%s: since %q, fixed in %v; want versions, and one that fixes it", a.cve, a.since, a.fixed)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, text := range []string{"20.10.24+dfsg1", "1.0.0~rc93+ds1", "v1.2.5-0-g59923ef", "library-import", "1.4.0-rc.3", "99999999.1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseVersion(text)
		for _, component := range []string{"Engine", "containerd", "runc"} {
			_ = vulnerabilities(component, text)
		}
		if !ok {
			return
		}
		again, ok := parseVersion(v.String())
		if !ok || again.compare(v) != 0 {
			t.Errorf("%q is %v, which reads as %v", text, v, again)
		}
		if v.compare(v) != 0 {
			t.Errorf("%q differs from itself, want it equal", text)
		}
	})
}
