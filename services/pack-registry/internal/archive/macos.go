package archive

import (
	"fmt"
	"path"
	"strings"
)

// macFolder is the folder in which macOS keeps, beside what is archived, attributes of files that zip can't hold.
const macFolder = "__MACOSX"

// macMetadata says whether an entry is nothing but what macOS adds to an archive: an AppleDouble file ("._x") in its folder, that
// folder and those in it, and the settings of a window beside the top folder.
func (e *entry) macMetadata() bool {
	if e.name == ".DS_Store" {
		return true
	}
	name := strings.TrimSuffix(e.name, "/")
	if top, _, _ := strings.Cut(name, "/"); top != macFolder {
		return false
	}
	return e.folder || strings.HasPrefix(path.Base(name), "._")
}

// leaveOut marks what macOS has added, if there is anything else, and says for the operator what that is.
func (a *Archive) skipMacMetadata() {
	files, others := 0, false
	for i := range a.entries {
		e := &a.entries[i]
		e.leftOut = e.macMetadata()
		others = others || !e.leftOut && !strings.HasPrefix(e.name, macFolder+"/")
		if e.leftOut && !e.folder {
			files++
		}
	}
	if !others {
		for i := range a.entries {
			a.entries[i].leftOut = false
		}
		return
	}
	if files > 0 {
		a.Warnings = append(a.Warnings, fmt.Sprintf("%s/ is left out: %d files that macOS adds to archives; no pack needs them", macFolder, files))
	}
}
