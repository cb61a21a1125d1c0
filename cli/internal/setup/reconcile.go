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

// reconcileInterval is how often everything is checked. The guide promises that a replaced API token is valid within a second.
const reconcileInterval = 500 * time.Millisecond

// Reconcile corrects, until ctx ends, what changes while the suite runs: the socket folders, which a reboot empties and the engine
// makes anew as root's, the links through which services see the API token and the key of the secrets, and their copies of the policy and of the
// API's certificate. It makes neither home id nor token nor key; Run does. It holds the locks of the socket folders' marks, so that no other home takes them over.
//
// A failure is logged once and tried again. If a folder was replaced on the host under its mount, a *mounts.LostError is returned:
// a restart mounts the new one.
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
	mounted, err := mounts.Read("/proc", cfg.Home, cfg.EgressSockets, cfg.CapabilitySockets, hostMount)
	if err != nil {
		return err
	}
	owners := []*uds.Owner{uds.NewOwner(cfg.EgressSockets, home), uds.NewOwner(cfg.CapabilitySockets, home)}
	steps := map[string]func() error{
		"socket folders": func() error {
			if err := cfg.ensureSocketFolders(home, log); err != nil {
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
		"policy":             func() error { return cfg.sharePolicy(settings, log) },
		"TLS certificate":    func() error { return cfg.shareServerCert(settings, log) },
		"certificates":       cfg.replaceEnded(filepath.Join(settings, "identity"), home, log),
	}
	failed := map[string]string{}
	err = periodic.RunErr(ctx, reconcileInterval, func(context.Context) error {
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
