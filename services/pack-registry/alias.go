package main

import (
	"path/filepath"
	"strings"
)

// homeAlias is the path of the Rumi home on the host, or "" where RUMI_HOME_PATH can't be right. Compose takes that variable
// from the folder of the shell, which needn't be the project's. mountinfo is the content of /proc/self/mountinfo. It has the
// path of the ecosystem folder on the host below the root of its file system, and the right home, with /ecosystem, must end
// with that path.
func homeAlias(path, ecosystem, mountinfo string) string {
	if !filepath.IsAbs(path) {
		return ""
	}
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 || unescape.Replace(fields[4]) != ecosystem {
			continue
		}
		from := unescape.Replace(fields[3])
		if from == "/" || !strings.HasSuffix(filepath.Join(path, "ecosystem"), from) {
			return ""
		}
	}
	return path
}

// unescape undoes the escapes of names in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
