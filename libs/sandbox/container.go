package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Labels of every container, beside the ones that Spec names.
const (
	labelKind      = "io.rumi.kind"
	labelName      = "io.rumi.name"
	labelPackID    = "io.rumi.pack_id"
	labelPrincipal = "io.rumi.principal"
	labelDigest    = "io.rumi.digest"
	labelPackages  = "io.rumi.packages"
	labelInstance  = "io.rumi.instance"
	labelImage     = "io.rumi.image"
	labelReplica   = "io.rumi.replica"
	labelMade      = "io.rumi.spec"
)

// Create makes a container and starts nothing. A name that is taken is ErrExists.
func (e *Engine) Create(ctx context.Context, spec Spec) (Container, error) {
	if err := spec.check(); err != nil {
		return Container{}, fmt.Errorf("create container: %w", err)
	}
	me, err := e.findSelf(ctx)
	if err != nil {
		return Container{}, err
	}
	instance, err := e.Instance(ctx)
	if err != nil {
		return Container{}, err
	}
	binds, err := me.binds(spec.Mounts)
	if err != nil {
		return Container{}, fmt.Errorf("create container: %w", err)
	}
	calls, err := systemCalls()
	if err != nil {
		return Container{}, fmt.Errorf("create container: %w", err)
	}
	cpus, err := e.nanoCPUs(ctx, spec.Limits.orElse(DefaultLimits).CPUs)
	if err != nil {
		return Container{}, err
	}
	imageID, err := e.resolve(ctx, spec.Image)
	if err != nil {
		return Container{}, err
	}
	cfg, host := e.profile(spec, instance, calls, binds, cpus)
	cfg.Image = imageID // not the name: it may lead elsewhere by now
	name := containerName(instance, spec.Kind, spec.Name)
	made, err := e.api.ContainerCreate(ctx, cfg, host, nil, nil, name)
	switch {
	case cerrdefs.IsConflict(err):
		return Container{}, fmt.Errorf("create container %s: %w", name, ErrExists)
	case err != nil && e.runtime != "" && strings.Contains(strings.ToLower(err.Error()), "runtime"):
		// 20.10: "Unknown runtime specified x"; later: "unknown or invalid runtime name: x".
		return Container{}, fault.Unavailable("Docker knows no container runtime %q (RUMI_CONTAINER_RUNTIME)", e.runtime).
			With("runtime_unknown").Because(err)
	case err != nil:
		return Container{}, failed("create container "+name, err)
	}
	c := labelled(cfg.Labels)
	c.ID, c.ImageID, c.Status, c.Created = made.ID, imageID, "created", time.Now()
	return c, nil
}

func containerName(instance string, kind Kind, name string) string {
	return "rumi-" + instance + "-" + string(kind) + "-" + name
}

// Fingerprint tells containers apart that were made of different Specs.
func (s Spec) Fingerprint() string {
	text, err := json.Marshal(s) // maps are sorted
	if err != nil {
		panic(err) // it has strings and numbers only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Start runs what Create made. One that runs already is no error.
func (e *Engine) Start(ctx context.Context, id string) error {
	if _, err := e.Inspect(ctx, id); err != nil {
		return err
	}
	if err := e.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return failed("start container", err)
	}
	return nil
}

// Stop sends SIGTERM and, after grace (rounded up to seconds), SIGKILL. One that doesn't run is no error.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	if _, err := e.Inspect(ctx, id); err != nil {
		return err
	}
	seconds := int((grace + time.Second - 1) / time.Second)
	if err := e.api.ContainerStop(ctx, id, container.StopOptions{Timeout: &seconds}); err != nil {
		return failed("stop container", err)
	}
	return nil
}

// Remove kills a container and forgets it. One that is gone is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.Inspect(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	err = e.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case err == nil, cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err): // somebody else removes it at this moment
		return e.gone(ctx, id)
	}
	return failed("remove container", err)
}

// gone waits until a container that is being removed is.
func (e *Engine) gone(ctx context.Context, id string) error {
	waited, failure := e.api.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-waited:
		return nil
	case err := <-failure:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return failed("wait for container's removal", err)
	}
}

// Inspect is the container as it is now.
func (e *Engine) Inspect(ctx context.Context, id string) (Container, error) {
	instance, err := e.Instance(ctx)
	if err != nil {
		return Container{}, err
	}
	raw, err := e.api.ContainerInspect(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return Container{}, fmt.Errorf("inspect container %.12s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Container{}, failed("inspect container", err)
	}
	if raw.Config == nil || raw.Config.Labels[labelInstance] != instance {
		return Container{}, fmt.Errorf("inspect container %.12s: %w", id, ErrNotFound)
	}
	created, err := time.Parse(time.RFC3339Nano, raw.Created)
	if err != nil {
		return Container{}, fmt.Errorf("read container's age: %w", err)
	}
	c := labelled(raw.Config.Labels)
	c.ID, c.ImageID, c.Status, c.Created = raw.ID, raw.Image, raw.State.Status, created
	// Docker's time before the first start or end is year 1.
	if at, err := time.Parse(time.RFC3339Nano, raw.State.StartedAt); err == nil && at.Year() > 1 {
		c.Started = at
	}
	if at, err := time.Parse(time.RFC3339Nano, raw.State.FinishedAt); err == nil && at.Year() > 1 {
		c.Finished, c.Exit = at, Exit{raw.State.ExitCode, raw.State.OOMKilled}
	}
	return c, nil
}

// labelled is what the labels say.
func labelled(labels map[string]string) Container {
	return Container{Kind: Kind(labels[labelKind]), Name: labels[labelName], PackID: labels[labelPackID],
		Principal: labels[labelPrincipal], Digest: labels[labelDigest], Packages: labels[labelPackages],
		Image: labels[labelImage], Replica: labels[labelReplica], Made: labels[labelMade]}
}

// Find gives the container of that kind and name; ErrNotFound where there is none.
func (e *Engine) Find(ctx context.Context, kind Kind, name string) (Container, error) {
	if !validName.MatchString(name) {
		return Container{}, fmt.Errorf("find %s container %q: %w", kind, name, ErrNotFound)
	}
	instance, err := e.Instance(ctx)
	if err != nil {
		return Container{}, err
	}
	c, err := e.Inspect(ctx, containerName(instance, kind, name))
	if err != nil {
		return Container{}, err
	}
	if c.Kind != kind || c.Name != name {
		return Container{}, fmt.Errorf("find %s container %q: %w", kind, name, ErrNotFound)
	}
	return c, nil
}

// List gives the containers of this instance, running or not, of one kind or, with "", of all.
func (e *Engine) List(ctx context.Context, kind Kind) ([]Container, error) {
	instance, err := e.Instance(ctx)
	if err != nil {
		return nil, err
	}
	wanted := filters.NewArgs(filters.Arg("label", labelInstance+"="+instance))
	if kind != "" {
		wanted.Add("label", labelKind+"="+string(kind))
	}
	raw, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: wanted})
	if err != nil {
		return nil, failed("list containers", err)
	}
	list := make([]Container, 0, len(raw))
	for _, r := range raw {
		c := labelled(r.Labels)
		c.ID, c.ImageID, c.Status, c.Created = r.ID, r.ImageID, r.State, time.Unix(r.Created, 0).UTC()
		list = append(list, c)
	}
	return list, nil
}

// Sweep removes those containers of a kind that keep doesn't want (nil wants none): what a process that died left behind.
// It goes on after a failure, and gives what it removed.
func (e *Engine) Sweep(ctx context.Context, kind Kind, keep func(Container) bool) ([]Container, error) {
	all, err := e.List(ctx, kind)
	if err != nil {
		return nil, err
	}
	var removed []Container
	var failures []error
	for _, c := range all {
		if keep != nil && keep(c) {
			continue
		}
		if err := e.Remove(ctx, c.ID); err != nil {
			failures = append(failures, err)
			continue
		}
		removed = append(removed, c)
	}
	return removed, errors.Join(failures...)
}

// Exit is how a container ended.
type Exit struct {
	Code      int  // of PID 1; 128+n for signal n
	OOMKilled bool // the kernel killed something in it for its memory limit
}

// Wait returns when the container doesn't run any more (at once where it doesn't now), or with ctx's error.
func (e *Engine) Wait(ctx context.Context, id string) (Exit, error) {
	if _, err := e.Inspect(ctx, id); err != nil {
		return Exit{}, err
	}
	waited, failure := e.api.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case end := <-waited:
		if end.Error != nil {
			return Exit{}, fmt.Errorf("wait for container: %s", end.Error.Message)
		}
		exit := Exit{Code: int(end.StatusCode)}
		// Removed since? Then nobody knows any more what killed it.
		if c, err := e.Inspect(ctx, id); err == nil {
			exit.OOMKilled = c.Exit.OOMKilled
		}
		return exit, nil
	case err := <-failure:
		if cerrdefs.IsNotFound(err) {
			return Exit{}, fmt.Errorf("wait for container %.12s: %w", id, ErrNotFound)
		}
		return Exit{}, failed("wait for container", err)
	}
}
