package service

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/rumi-ai/rumi/libs/mounts"
)

// watchMounts ends the service when one of its mounted folders (of the home, or of sockets) was moved, removed or replaced on the host. Without
// that, the service would go on writing to a folder that nobody else sees. And it names paths of the host to the engine: it would have the
// files of another folder mounted into containers. A mounted file that was replaced only makes the service unready.
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
