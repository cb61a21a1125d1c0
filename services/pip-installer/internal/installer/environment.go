package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
)

// Environment is the environment of the lock that was installed last for a pack.
func (i *Installer) Environment(ctx context.Context, packID string) (api.Environment, error) {
	installed, err := i.OfPack(ctx, packID, candidate.Installed)
	if err != nil {
		return api.Environment{}, err
	}
	if len(installed) == 0 {
		return api.Environment{}, fault.NotFound("Environment not found").With("environment_not_found")
	}
	last := installed[0]
	for _, item := range installed[1:] {
		if item.UpdatedAt.After(last.UpdatedAt) {
			last = item
		}
	}
	env := last.Payload.Environment
	env.CandidateKey = last.Key
	return env, nil
}

// Send writes an environment of a pack as a tree. digest says which; "" is the current one.
func (i *Installer) Send(ctx context.Context, w io.Writer, packID, digest string) error {
	if digest == "" {
		env, err := i.Environment(ctx, packID)
		if err != nil {
			return err
		}
		return i.cfg.Environments.Send(ctx, w, env.Digest)
	}
	installed, err := i.OfPack(ctx, packID, candidate.Installed)
	if err != nil {
		return err
	}
	for _, item := range installed {
		if item.Payload.Environment.Digest == digest {
			return i.cfg.Environments.Send(ctx, w, digest)
		}
	}
	return fault.NotFound("Environment not found").With("environment_not_found")
}

// Remove forgets a pack, and removes what was installed for it unless another pack has the same environment.
func (i *Installer) Remove(ctx context.Context, packID string) (removed bool, err error) {
	items, err := i.RemovePack(ctx, packID)
	if err != nil || len(items) == 0 {
		return false, err
	}
	var digests []string
	for _, item := range items {
		digests = append(digests, item.Payload.Environment.Digest)
	}
	return true, i.Sweep(ctx, digests...)
}

// orphanAge is how long an environment without a candidate is left alone: another replica may be about to record it as
// installed.
const orphanAge = time.Hour

// Sweep removes the environments that no installed candidate has, if they are among those given or older than orphanAge.
func (i *Installer) Sweep(ctx context.Context, given ...string) error {
	i.sweepLock.Lock()
	defer i.sweepLock.Unlock()
	installed, err := i.List(ctx, candidate.Installed)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, item := range installed {
		wanted[item.Payload.Environment.Digest] = true
	}
	err = i.cfg.Environments.Sweep(func(digest string, age time.Duration) bool {
		return wanted[digest] || age < orphanAge && !slices.Contains(given, digest)
	})
	if err != nil {
		return fmt.Errorf("remove environments: %w", err)
	}
	return nil
}

// SweepAll removes unused environments, and copies of trees that aren't approved any more.
func (i *Installer) SweepAll(ctx context.Context) error {
	err := i.Sweep(ctx)
	if i.cfg.Gates.Fresh() {
		wanted := map[string]bool{}
		for _, state := range i.cfg.Gates.All() {
			wanted[state.Digest] = true
		}
		err = errors.Join(err, i.cfg.Approved.Sweep(func(digest string) bool { return wanted[digest] }))
	}
	return err
}
