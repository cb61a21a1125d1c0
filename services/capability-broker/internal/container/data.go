package container

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/packdata"
)

// measureInterval is how often the data folders of running packs are measured if there is a limit. It is also how long a pack
// may be over the limit before it is stopped: portable file systems have no quota for a folder.
const measureInterval = time.Minute

// dataProblem says what is wrong with a data folder; "" for nothing. A folder that can't be measured is a problem: a pack could
// make it so in order to hide what it holds.
func (m *Manager) dataProblem(ctx context.Context, dir string) string {
	if m.DataMax == 0 {
		return ""
	}
	switch u, err := packdata.Measure(ctx, dir); {
	case ctx.Err() != nil:
		return ""
	case err != nil:
		return "data folder can't be measured"
	case u.Bytes > m.DataMax:
		return fmt.Sprintf("data folder holds %d MiB in %d files and folders, more than the %d MiB that it may", u.Bytes>>20, u.Files, m.DataMax>>20)
	}
	return ""
}

// checkDataLimit refuses to start a pack whose data folder is over its limit already.
func (m *Manager) checkDataLimit(ctx context.Context, dir string) error {
	if problem := m.dataProblem(ctx, dir); problem != "" {
		return fault.Conflict("Pack can't be started: its %s", problem).With("data_full")
	}
	return nil
}

// watchDataLimit enforces the limit until Watch ends.
func (m *Manager) watchDataLimit() {
	_ = periodic.Run(m.background, measureInterval, m.enforceDataLimit) // its only error is nil
}

// enforceDataLimit stops the packs whose data folders are over the limit. A measurement may take long, so it is made without the
// pack's lock; stopIfStill makes sure that it stops the container that was measured and no later one.
func (m *Manager) enforceDataLimit(ctx context.Context) {
	for _, r := range m.records.all() {
		if !r.Running {
			continue
		}
		problem := m.dataProblem(ctx, filepath.Join(m.DataDir, r.PackID))
		if problem == "" {
			continue
		}
		m.Log.WarnContext(ctx, "stopping a container", "pack_id", r.PackID, "reason", problem)
		if err := m.stopIfStill(ctx, r.PackID, r.ContainerID, problem); err != nil {
			m.Log.ErrorContext(ctx, "a container could not be stopped; trying again", "pack_id", r.PackID, "error", err)
		}
	}
}

// stopIfStill stops a pack's container if it still is the one of that id, for a reason that was found without the pack's lock.
func (m *Manager) stopIfStill(ctx context.Context, packID, id, reason string) error {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	r, err := m.Records.Record(ctx, packID)
	if err != nil || !r.Running || r.ContainerID != id {
		return err
	}
	return m.stopContainer(ctx, r, 0, reason, false)
}

// archiveData archives the data of a pack that is uninstalled and removes archives beyond DataKept; the pack's lock is held. It returns
// the archive's path relative to the Rumi home. That old archives can't be removed is no error: the uninstall is done.
func (m *Manager) archiveData(ctx context.Context, packID string) (string, error) {
	to, err := packdata.Archive(m.DataDir, packID, time.Now())
	if err != nil || to == "" {
		return "", err
	}
	m.Log.InfoContext(ctx, "kept the data of an uninstalled pack", "pack_id", packID, "folder", to)
	pruned, err := packdata.Prune(m.DataDir, packID, m.DataKept)
	if err != nil {
		m.Log.WarnContext(ctx, "old data of uninstalled packs could not be removed", "pack_id", packID, "error", err)
	}
	if len(pruned) > 0 {
		if err := m.audit(ctx, "pack_data_pruned", packID, "", map[string]any{"removed": pruned}); err != nil {
			m.Log.ErrorContext(ctx, "the removal of old data could not be audited", "pack_id", packID, "removed", pruned, "error", err)
		}
	}
	return to, nil
}

// RestoreData gives a pack the data again that its last uninstall archived, and returns where that was, relative to the Rumi home.
// Faults: those of packdata.Restore, and conflict (pack_running) if the pack runs: its container has the present folder mounted.
func (m *Manager) RestoreData(ctx context.Context, packID string) (from string, err error) {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return "", fmt.Errorf("restore data of %s: %w", packID, err)
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err != nil {
		return "", err
	}
	if found.alive() {
		return "", fault.Conflict("Pack '%s' runs. Run first: POST /api/containers/%s/stop", packID, packID).With("pack_running")
	}
	if from, err = packdata.Restore(m.DataDir, packID); err != nil {
		return "", err
	}
	return from, m.audit(ctx, "pack_data_restored", packID, "", map[string]any{"from": from})
}
