package sandbox

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// version is the version of an engine or of one of its components, reduced to the part that decides which fixes it has.
type version struct {
	major, minor, patch int
	pre                 string // "alpha", "beta" or "rc" before a release, "" for one
	preNumber           int
	distributor         string // what a distributor has put behind it ("+dfsg1", "-0ubuntu1~22.04"); fixes may be in that
}

// Debian writes 1.0.0~rc93+ds1 where upstream writes 1.0.0-rc93, and later ones are 1.4.0-rc.3.
var versionForm = regexp.MustCompile(`\Av?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-~.]?(alpha|beta|rc)[-.]?(\d{1,6}))?(.*)\z`)

// upstreamSuffix is what upstream's own builds put behind a version: "-ce", "-dev", git's count and hash.
var upstreamSuffix = regexp.MustCompile(`\A(?:-ce|[-+.]dev|[-+]unknown|-\d+-g[0-9a-f]+|\+dirty|-dirty|\.m)*\z`)

// parseVersion is false for what is no version ("library-import", a date, a hash).
func parseVersion(text string) (version, bool) {
	m := versionForm.FindStringSubmatch(text)
	if m == nil || len(m[6]) > 0 && m[6][0] >= '0' && m[6][0] <= '9' {
		return version{}, false
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n } // digits, at most 6, or none
	v := version{major: number(m[1]), minor: number(m[2]), patch: number(m[3]), pre: m[4], preNumber: number(m[5])}
	if !upstreamSuffix.MatchString(m[6]) {
		v.distributor = m[6]
	}
	return v, true
}

func (v version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
	if v.pre != "" {
		s += fmt.Sprintf("-%s.%d", v.pre, v.preNumber)
	}
	return s
}

// compare orders versions by what upstream put into them.
func (v version) compare(o version) int {
	release := func(v version) string { // "alpha" < "beta" < "rc" < a release
		return cmp.Or(v.pre, "release-is-last")
	}
	stage := func(v version) int {
		return slices.Index([]string{"alpha", "beta", "rc", "release-is-last"}, release(v))
	}
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor), cmp.Compare(v.patch, o.patch),
		cmp.Compare(stage(v), stage(o)), cmp.Compare(v.preNumber, o.preNumber))
}

// line compares the lines of releases, 1.2 and 1.3, that fixes are made for one by one.
func (v version) line(o version) int {
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor))
}
