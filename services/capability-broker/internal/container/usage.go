package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// measureEvery is how often the data folders of running packs are measured where there is a limit. A pack may go over it
// for as long.
const measureEvery = time.Minute

// Usage is what a pack's data folder holds.
type Usage struct {
	Bytes int64 // on the disk
	Files int64 // folders included
}

// usage measures a folder, following no link. What vanishes meanwhile counts for nothing; what can't be read is an error,
// since a pack may close its folders to us.
func usage(ctx context.Context, dir string) (Usage, error) {
	var u Usage
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		u.Files++
		if is, ok := info.Sys().(*syscall.Stat_t); ok {
			u.Bytes += is.Blocks * 512 // what the file system says it takes; a hole takes nothing
		}
		return ctx.Err()
	})
	if err != nil {
		return u, fmt.Errorf("measure data folder: %w", err)
	}
	return u, nil
}

// over says what is wrong with a data folder, "" for nothing.
func (m *Manager) over(ctx context.Context, dir string) string {
	if m.DataMax == 0 {
		return ""
	}
	switch u, err := usage(ctx, dir); {
	case ctx.Err() != nil:
		return ""
	case err != nil:
		return "data folder can't be measured"
	case u.Bytes > m.DataMax:
		return fmt.Sprintf("data folder holds %d MiB, more than the %d MiB that it may", u.Bytes>>20, m.DataMax>>20)
	}
	return ""
}

// roomy refuses to start a pack whose data folder is over its limit already.
func (m *Manager) roomy(ctx context.Context, dir string) error {
	if reason := m.over(ctx, dir); reason != "" {
		return fault.Conflict("Pack can't be started: its %s", reason).With("data_full")
	}
	return nil
}

// measureAll measures until Watch ends.
func (m *Manager) measureAll() {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.base.Done():
			return
		case <-tick.C:
			m.measure(m.base)
		}
	}
}

// measure stops those packs whose data folders are over the limit.
func (m *Manager) measure(ctx context.Context) {
	for _, r := range m.all() {
		if !r.Running {
			continue
		}
		reason := m.over(ctx, filepath.Join(m.DataDir, r.PackID))
		if reason == "" {
			continue
		}
		m.Log.WarnContext(ctx, "stopping a container", "pack_id", r.PackID, "reason", reason)
		if err := m.endFor(ctx, r.PackID, r.ContainerID, reason); err != nil {
			m.Log.ErrorContext(ctx, "stopping a container failed; trying again", "pack_id", r.PackID, "error", err)
		}
	}
}

// endFor stops a pack's container, if it is still that one, for a reason found without holding the pack.
func (m *Manager) endFor(ctx context.Context, packID, id, reason string) error {
	release, err := m.hold(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	r, err := m.Records.Record(ctx, packID)
	if err != nil || !r.Running || r.ContainerID != id {
		return err
	}
	return m.end(ctx, r, 0, reason, false)
}
