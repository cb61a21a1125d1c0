package setup

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/mounts"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/uds"
)

// reconcileEvery is how soon a change is answered: a replaced API token is good after a second at most.
const reconcileEvery = 500 * time.Millisecond

// Reconcile keeps right, until ctx ends, what changes while the suite runs: the socket folders, which a reboot empties and
// the engine makes anew as root's, and the services' names of the API token and of the key of the secrets. It makes nothing that Run would have to make
// first, and holds the socket folders' marks, so that no other home takes them over. What can't be mended is logged once
// and tried again. It ends with a LostError where a folder was replaced under its mount: a restart mounts the new one.
func Reconcile(ctx context.Context, cfg Config, log *slog.Logger) error {
	settings := filepath.Join(cfg.Home, "user_data/settings")
	var st unix.Stat_t // its group is the operator's
	if err := unix.Stat(settings, &st); err != nil {
		return fmt.Errorf("inspect the settings: %w", err)
	}
	home, err := identity.ReadHome(filepath.Join(settings, identity.HomeFile))
	if err != nil {
		return fmt.Errorf("read home id: %w (run init: docker compose up --detach)", err)
	}
	mounted, err := mounts.Read("/proc", cfg.Home, cfg.EgressSockets, cfg.CapabilitySockets)
	if err != nil {
		return err
	}
	owners := []*uds.Owner{uds.NewOwner(cfg.EgressSockets, home), uds.NewOwner(cfg.CapabilitySockets, home)}
	steps := map[string]func() error{
		"socket folders": func() error {
			if err := cfg.socketFolders(home, log); err != nil {
				return err
			}
			for _, o := range owners {
				if err := o.Check(); err != nil {
					return err
				}
			}
			return nil
		},
		"API token":          func() error { return cfg.shareToken(settings, int(st.Gid), log) },
		"key of the secrets": func() error { return cfg.shareKey(settings, log) },
	}
	failed := map[string]string{}
	err = periodic.RunErr(ctx, reconcileEvery, func(context.Context) error {
		switch lost, err := mounted.Folders(); {
		case err != nil:
			return err
		case len(lost) > 0:
			return &mounts.LostError{Folders: lost}
		}
		for name, step := range steps {
			text := ""
			if err := step(); err != nil {
				text = err.Error()
			}
			if text != "" && text != failed[name] {
				log.Error("could not reconcile; trying again", "what", name, "error", text)
			}
			failed[name] = text
		}
		return nil
	}, periodic.Immediately)
	if err != nil {
		return err
	}
	for _, o := range owners {
		o.Close()
	}
	return nil
}
