package grant

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Mount is a folder of the host that a handler's container sees.
type Mount struct {
	Source   string `json:"source"`             // absolute, or relative to the folder that packs share
	Target   string `json:"target,omitzero"`    // absolute
	ReadOnly *bool  `json:"read_only,omitzero"` // absent means true
}

// Writable says whether the container may change what is in the folder.
func (m Mount) Writable() bool { return m.ReadOnly != nil && !*m.ReadOnly }

// TargetPath is the path of the folder in the container: Target, or /mnt/ and the last name of Source.
func (m Mount) TargetPath() string {
	if m.Target != "" {
		return m.Target
	}
	return "/mnt/" + path.Base(m.Source)
}

// Bounds of mounts. The container has its own code at /pack beside them.
const (
	maxMounts    = 15
	maxMountPath = 1024 // bytes
	maxMountName = 255  // bytes of each name in it
)

// reserved are the folders at the top of a container in which nothing may be mounted: a grant must not replace what the container runs.
var reserved = strings.Fields("bin boot dev etc lib lib32 lib64 libx32 opt pack proc root run sbin site-packages sys tmp usr var")

func checkMounts(list []Mount) error {
	if len(list) > maxMounts {
		return fault.Invalid("Invalid mounts: more than %d", maxMounts).With("invalid_mounts")
	}
	for i, m := range list {
		if !cleanPath(m.Source) || !path.IsAbs(m.Source) && !fs.ValidPath(m.Source) || m.Source == "." {
			return fault.Invalid("Invalid mounts: 'source' must be an absolute path or a folder's name, without '.', '..', a slash at the end and names over 255 bytes").With("invalid_mounts")
		}
		target := m.TargetPath()
		if !cleanPath(target) || !path.IsAbs(target) || target == "/" {
			return fault.Invalid("Invalid mounts: 'target' must be an absolute path without '.', '..', a slash at the end and names over 255 bytes").With("invalid_mounts")
		}
		if top, _, _ := strings.Cut(target[1:], "/"); slices.Contains(reserved, top) {
			return fault.Invalid("Invalid mounts: 'target' must not lie in /%s, which is the container's own; take /mnt/NAME", top).With("invalid_mounts")
		}
		for _, other := range list[:i] {
			if inside(target, other.TargetPath()) || inside(other.TargetPath(), target) {
				return fault.Invalid("Invalid mounts: two lie in one another at %s", target).With("invalid_mounts")
			}
		}
	}
	return nil
}

func cleanPath(p string) bool {
	if p == "" || len(p) > maxMountPath || path.Clean(p) != p || strings.IndexFunc(p, unicode.IsControl) >= 0 {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxMountName {
			return false
		}
	}
	return true
}

func inside(p, folder string) bool {
	return p == folder || folder == "/" || strings.HasPrefix(p, folder+"/")
}

// within says whether one of the mounts gives at least what m gives: the folder or one around it, writable if m is.
func (m Mount) within(list []Mount) bool {
	return slices.ContainsFunc(list, func(p Mount) bool {
		return inside(m.Source, p.Source) && (p.Writable() || !m.Writable())
	})
}
