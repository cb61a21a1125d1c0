package main

import (
	"path/filepath"
	"strings"
)

// homeAlias is how the operator names the Rumi home, or "" where that can't be believed. Compose fills RUMI_HOME_PATH from
// the shell's folder, which need not be the project's. mountinfo (/proc/self/mountinfo) says from where the folder
// ecosystem is mounted: its path below the top of its file system, with which the right name of the home must end.
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

// unescape undoes what the kernel does to names in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
