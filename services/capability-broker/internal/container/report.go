package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
)

// reportTimeout bounds the notifications of one round.
const reportTimeout = 2 * time.Second

// report notifies approval of packs whose status doesn't match what their container does. The status is compared with the
// record each time, so a notification that is lost or comes twice is put right by the next round.
func (m *Manager) report(ctx context.Context, gates []gate.State) {
	if !m.synced.Load() {
		return // it isn't known yet what runs
	}
	running := make(map[string]bool)
	for _, r := range m.records.all() {
		running[r.PackID] = r.Running
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for _, state := range gates {
		if !m.needsReport(state, running) {
			continue
		}
		if err := m.Reporter.SetRunning(ctx, state.PackID, running[state.PackID]); err != nil && !fault.Is(err, fault.KindNotFound) {
			m.Log.WarnContext(ctx, "approval could not be notified whether a container runs; trying again", "pack_id", state.PackID, "error", err)
			return
		}
		if !state.Open {
			m.reportedStopped[state.PackID] = true
		}
	}
}

// needsReport says whether approval is to be notified about a pack. The closed gate of a child has its parent's status, not the
// child's own, so there the status can't be compared: that the child has stopped is reported once.
func (m *Manager) needsReport(state gate.State, running map[string]bool) bool {
	runs, recorded := running[state.PackID]
	if !state.Open {
		return recorded && !runs && !m.reportedStopped[state.PackID]
	}
	if runs == (state.Status == pack.StatusRunning) {
		delete(m.reportedStopped, state.PackID)
		return false
	}
	return true
}
