package service

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/rumi-ai/rumi/libs/mounts"
)

// watchMounts ends the service when a folder of the home, or one of sockets, is not at its path on the host any more: the
// service would go on with a folder that nobody else sees, and have parts of another one mounted into containers. A file
// that was replaced is a matter of readiness.
func (rt *Runtime) watchMounts() error {
	set, err := mounts.Read("/proc", filepath.Dir(filepath.Clean(rt.UserData)), "/run/rumi", "/etc/rumi")
	if err != nil {
		return err
	}
	rt.Go("mounts", func(ctx context.Context) error {
		err := set.Watch(ctx)
		if lost := (*mounts.LostError)(nil); errors.As(err, &lost) {
			rt.mountsLost.Store(true)
		}
		return err
	})
	if set.HasFiles() {
		rt.ReadyWhen("mounted files", func(context.Context) error {
			lost, err := set.Files()
			if err != nil || len(lost) == 0 {
				return err
			}
			return WithFix(fmt.Errorf("%s: replaced or removed on the host, and the old content is still in use", strings.Join(lost, ", ")),
				"see that the file is there, then run: docker compose restart "+rt.Name)
		})
	}
	return nil
}

// MountsLost says whether the service ends because a folder that it has mounted was moved, removed or replaced on the host.
func (rt *Runtime) MountsLost() bool { return rt.mountsLost.Load() }
