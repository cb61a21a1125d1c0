package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	shutdownGrace      = 3 * time.Second // between SIGTERM and SIGKILL where the suite stops; compose kills the broker after 20 s
	maxConcurrentStops = 16              // containers
)

// DisableRestarts has nothing started again from now on, since this process stops, and says whether a container runs.
func (m *Manager) DisableRestarts() (running bool) {
	m.restartsDisabled.Store(true)
	return slices.ContainsFunc(m.allRecords(), func(r Record) bool { return r.Running })
}

// StopAll stops all packs' containers, for a reason that isn't the packs'. They are due to be started again, by a broker
// that isn't held. One that can't be stopped keeps none of the others.
func (m *Manager) StopAll(ctx context.Context, reason string) error {
	var stopping sync.WaitGroup
	var failures []error
	var mu sync.Mutex
	slots := make(chan struct{}, maxConcurrentStops)
	for _, r := range m.allRecords() {
		if !r.Running {
			continue
		}
		slots <- struct{}{}
		stopping.Go(func() {
			defer func() { <-slots }()
			if err := m.suspend(ctx, r.PackID, reason); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, fmt.Errorf("stop %s: %w", r.PackID, err))
			}
		})
	}
	stopping.Wait()
	return errors.Join(failures...)
}

// suspend stops one pack's container, to be started again if it was wanted.
func (m *Manager) suspend(ctx context.Context, packID, reason string) error {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err != nil || found.own == nil || !found.own.Alive() {
		return err
	}
	r := found.record
	return m.stopContainer(ctx, r, shutdownGrace, reason, r.Wanted)
}
