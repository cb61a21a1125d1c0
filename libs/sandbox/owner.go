package sandbox

import (
	"context"
	"path"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// ownership tells the containers of this home from all others on the engine. Other homes, other users of the engine and their containers are
// none of our business: they are neither listed nor touched.
type ownership struct {
	home     string   // of label io.rumi.home; "" for a process that has none, whose containers go by their instance
	instance string   // of label io.rumi.instance
	dirs     []string // Config.HomeDirs, as the engine's host has them
}

func (e *Engine) ownership(ctx context.Context) (ownership, error) {
	instance, err := e.Instance(ctx)
	if err != nil {
		return ownership{}, err
	}
	mine := ownership{home: e.home, instance: instance}
	if e.home == "" || len(e.homeDirs) == 0 {
		return mine, nil
	}
	me, err := e.findSelf(ctx)
	if err != nil {
		return ownership{}, err
	}
	for _, dir := range e.homeDirs {
		if host, _, err := me.hostPath(path.Clean(dir)); err == nil { // else no container can have it mounted
			mine.dirs = append(mine.dirs, host)
		}
	}
	return mine, nil
}

// owns says whether a container is this home's. The label of the home decides. Earlier versions labelled containers by the name of the compose
// project only, which may have changed since; a container without a home's label that has a folder of ours mounted is one of those: it is
// ours, and outdated.
func (o ownership) owns(labels map[string]string, mounts []container.MountPoint) (owned, outdated bool) {
	home, labelled := labels[labelHome]
	switch {
	case o.home == "":
		return !labelled && labels[labelInstance] == o.instance, false
	case labelled:
		return home == o.home, false
	case labels[labelKind] == "":
		return false, false
	}
	for _, m := range mounts {
		for _, dir := range o.dirs {
			if m.Source == dir || strings.HasPrefix(m.Source, strings.TrimSuffix(dir, "/")+"/") {
				return true, true
			}
		}
	}
	return false, false
}
