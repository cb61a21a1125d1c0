package grant

import (
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Mount is a folder of the host that a handler's container sees.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target,omitzero"`
	ReadOnly *bool  `json:"read_only,omitzero"` // absent means true
}

// Writable says whether the container may change what it sees.
func (m Mount) Writable() bool { return m.ReadOnly != nil && !*m.ReadOnly }

const maxMounts = 16

func checkMounts(list []Mount) error {
	if len(list) > maxMounts {
		return fault.Invalid("Invalid mounts: more than %d", maxMounts)
	}
	for _, m := range list {
		if !path.IsAbs(m.Source) || path.Clean(m.Source) != m.Source {
			return fault.Invalid("Invalid mounts: 'source' must be an absolute path without '.', '..' and a slash at the end")
		}
		if m.Target != "" && (!path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target) {
			return fault.Invalid("Invalid mounts: 'target' must be an absolute path without '.', '..' and a slash at the end")
		}
	}
	return nil
}

// within says whether one of the mounts shows all that m does, and lets it be changed where m does.
func (m Mount) within(list []Mount) bool {
	return slices.ContainsFunc(list, func(p Mount) bool {
		inside := p.Source == "/" || m.Source == p.Source || strings.HasPrefix(m.Source, p.Source+"/")
		return inside && (p.Writable() || !m.Writable())
	})
}
