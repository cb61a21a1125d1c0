package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tracing/step"
)

// Labels of every container, beside the ones that Spec names.
const (
	labelKind      = "io.rumi.kind"
	labelName      = "io.rumi.name"
	labelPackID    = "io.rumi.pack_id"
	labelPrincipal = "io.rumi.principal"
	labelDigest    = "io.rumi.digest"
	labelPackages  = "io.rumi.packages"
	labelHome      = "io.rumi.home"
	labelInstance  = "io.rumi.instance"
	labelImage     = "io.rumi.image"
	labelReplica   = "io.rumi.replica"
	labelSpec      = "io.rumi.spec"
)

// Create makes a container and starts nothing. A name that is taken is ErrExists.
func (e *Engine) Create(ctx context.Context, spec Spec) (made Container, err error) {
	ctx, end := step.Begin(ctx, "docker create", step.Client, attribute.String("rumi.container.kind", string(spec.Kind)))
	defer func() { end(err) }()
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
	cpus, err := e.nanoCPUs(ctx, spec.Limits.withDefaults(DefaultLimits).CPUs)
	if err != nil {
		return Container{}, err
	}
	image, err := e.resolveImage(ctx, spec.Image)
	if err != nil {
		return Container{}, err
	}
	cfg, host := e.profile(spec, instance, calls, binds, cpus)
	cfg.Image = image.id // not the name, which may lead to another image by now
	name := containerName(instance, spec.Kind, spec.Name)
	for label := range image.labels {
		if strings.HasPrefix(label, composePrefix) {
			cfg.Labels[label] = ""
		}
	}
	if _, inherited := cfg.Labels[composeProject]; inherited {
		cfg.Labels[composeProject], cfg.Labels[composeService] = prefix(instance)+"-sandboxes", string(spec.Kind)+"-"+spec.Name
	}
	id, err := e.create(ctx, cfg, host, name, spec)
	if err != nil {
		return Container{}, err
	}
	c := fromLabels(cfg.Labels)
	c.ID, c.ImageID, c.Status, c.Created = id, image.id, "created", time.Now()
	return c, nil
}

// Labels that docker compose puts on the images it builds. A container inherits them, and tools (docker compose down
// --remove-orphans) would take it for a service of the project that built the image. Create overwrites them.
const (
	composePrefix  = "com.docker.compose."
	composeProject = composePrefix + "project"
	composeService = composePrefix + "service"
)

// create makes the container under that name. If a container that isn't ours has taken the name, it gets a longer one: otherwise anybody who
// can use the engine could keep a pack from starting. Names decide nothing; labels and ids do.
func (e *Engine) create(ctx context.Context, cfg *container.Config, host *container.HostConfig, name string, spec Spec) (id string, err error) {
	ctx, cancel := bounded(ctx, changeWait)
	defer cancel()
	made, err := e.api.ContainerCreate(ctx, cfg, host, nil, nil, name)
	if cerrdefs.IsConflict(err) {
		same, findErr := e.Find(ctx, spec.Kind, spec.Name)
		if findErr != nil {
			return "", findErr
		}
		if len(same) > 0 {
			return "", fmt.Errorf("create container %s: %w", name, ErrExists)
		}
		made, err = e.api.ContainerCreate(ctx, cfg, host, nil, nil, name+"-"+strings.ToLower(rand.Text()[:8]))
	}
	switch {
	case err != nil && e.runtime != "" && strings.Contains(strings.ToLower(err.Error()), "runtime"):
		// 20.10: "Unknown runtime specified x"; later: "unknown or invalid runtime name: x".
		return "", fault.Unavailable("Docker knows no container runtime %q (RUMI_CONTAINER_RUNTIME)", e.runtime).
			With("runtime_unknown").Because(err)
	case err != nil:
		return "", clientError(ctx, "create container "+name, err)
	}
	return made.ID, nil
}

// prefix is what the names of an instance's containers begin with.
func prefix(instance string) string {
	if instance == "rumi" || strings.HasPrefix(instance, "rumi-") {
		return instance
	}
	return "rumi-" + instance
}

func containerName(instance string, kind Kind, name string) string {
	return prefix(instance) + "-" + string(kind) + "-" + name
}

// causal are the variables that tell a process why it was started, not what it is.
var causal = []string{"TRACEPARENT", "TRACESTATE"}

// Fingerprint is equal for equal Specs only, but for the trace of their start. It tells whether a container was made of a Spec, and is in the label
// io.rumi.spec.
func (s Spec) Fingerprint() string {
	s.Env = maps.Clone(s.Env)
	for _, name := range causal {
		delete(s.Env, name)
	}
	text, err := json.Marshal(s) // maps are sorted
	if err != nil {
		panic(err) // it has strings and numbers only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Start runs what Create made. One that runs already is no error.
func (e *Engine) Start(ctx context.Context, id string) (err error) {
	ctx, end := step.Begin(ctx, "docker start", step.Client, semconv.ContainerID(id))
	defer func() { end(err) }()
	if _, err := e.Inspect(ctx, id); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, changeWait)
	defer cancel()
	if err := e.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return clientError(ctx, "start container", err)
	}
	return nil
}

// Stop sends SIGTERM and, after grace (rounded up to seconds), SIGKILL. Without grace it sends SIGKILL at once, and so it does to a paused
// container: to stop that one by SIGTERM the engine would resume it, and its code, whose gate may be closed, would run again. A container
// that isn't alive is no error. One that is still alive afterwards is, whatever the engine answered.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	c, err := e.Inspect(ctx, id)
	if err != nil || !c.Alive() {
		return err
	}
	seconds := int((grace + time.Second - 1) / time.Second)
	bound, cancel := bounded(ctx, time.Duration(max(seconds, 0))*time.Second+changeWait)
	defer cancel()
	if seconds <= 0 || c.Status == "paused" {
		err = e.kill(bound, id)
	} else {
		err = e.api.ContainerStop(bound, id, container.StopOptions{Timeout: &seconds})
	}
	if err != nil && !cerrdefs.IsNotFound(err) {
		return clientError(bound, "stop container", err)
	}
	switch c, err = e.Inspect(ctx, id); {
	case errors.Is(err, ErrNotFound):
		return nil
	case err == nil && c.Alive():
		return fmt.Errorf("stop container %.12s: the engine says it has stopped it, and it is %s", id, c.Status)
	}
	return err
}

// kill ends a container by SIGKILL and waits for its end.
func (e *Engine) kill(ctx context.Context, id string) error {
	ended, failure := e.api.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	if err := e.api.ContainerKill(ctx, id, "SIGKILL"); err != nil && !cerrdefs.IsConflict(err) { // conflict: it has ended
		return err
	}
	select {
	case <-ended:
		return nil
	case err := <-failure:
		return err
	}
}

// Remove kills a container and removes it with its log. It is no error if the container doesn't exist.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.Inspect(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, changeWait)
	defer cancel()
	err = e.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case err == nil, cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err): // somebody else removes it at this moment
		return e.waitRemoved(ctx, id)
	}
	return clientError(ctx, "remove container", err)
}

// waitRemoved waits until the removal of a container by somebody else is done.
func (e *Engine) waitRemoved(ctx context.Context, id string) error {
	waited, failure := e.api.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-waited:
		return nil
	case err := <-failure:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return clientError(ctx, "wait for container's removal", err)
	}
}

// Inspect returns the container as it is now. A container of another home is ErrNotFound.
func (e *Engine) Inspect(ctx context.Context, id string) (Container, error) {
	mine, err := e.ownership(ctx)
	if err != nil {
		return Container{}, err
	}
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	raw, err := e.api.ContainerInspect(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return Container{}, fmt.Errorf("inspect container %.12s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Container{}, clientError(ctx, "inspect container", err)
	}
	if raw.Config == nil {
		return Container{}, fmt.Errorf("inspect container %.12s: %w", id, ErrNotFound)
	}
	owned, outdated := mine.owns(raw.Config.Labels, raw.Mounts)
	if !owned {
		return Container{}, fmt.Errorf("inspect container %.12s: %w", id, ErrNotFound)
	}
	created, err := time.Parse(time.RFC3339Nano, raw.Created)
	if err != nil {
		return Container{}, fmt.Errorf("read container's age: %w", err)
	}
	c := fromLabels(raw.Config.Labels)
	c.ID, c.ImageID, c.Status, c.Created, c.Outdated = raw.ID, raw.Image, raw.State.Status, created, outdated
	// Docker's time before the first start or end is year 1.
	if at, err := time.Parse(time.RFC3339Nano, raw.State.StartedAt); err == nil && at.Year() > 1 {
		c.Started = at
	}
	if at, err := time.Parse(time.RFC3339Nano, raw.State.FinishedAt); err == nil && at.Year() > 1 {
		c.Finished, c.Exit = at, Exit{raw.State.ExitCode, raw.State.OOMKilled}
	}
	return c, nil
}

// fromLabels returns the part of a Container that its labels say. Labels can be copied: none of it is proof of anything.
func fromLabels(labels map[string]string) Container {
	return Container{Kind: Kind(labels[labelKind]), Name: labels[labelName], PackID: labels[labelPackID],
		Principal: labels[labelPrincipal], Digest: labels[labelDigest], Packages: labels[labelPackages],
		Image: labels[labelImage], Replica: labels[labelReplica], SpecFingerprint: labels[labelSpec]}
}

// Find returns the containers of that kind and name, the oldest first. It goes by labels, not by Docker's names. There is one at most,
// unless somebody else made containers with our labels.
func (e *Engine) Find(ctx context.Context, kind Kind, name string) ([]Container, error) {
	found, err := e.list(ctx, filters.Arg("label", labelKind+"="+string(kind)), filters.Arg("label", labelName+"="+name))
	if err != nil {
		return nil, err
	}
	whole := make([]Container, 0, len(found))
	for _, c := range found {
		switch c, err := e.Inspect(ctx, c.ID); {
		case errors.Is(err, ErrNotFound): // removed since
		case err != nil:
			return nil, err
		default:
			whole = append(whole, c)
		}
	}
	slices.SortFunc(whole, func(a, b Container) int { return a.Created.Compare(b.Created) })
	return whole, nil
}

// List returns the containers of this home, running or not, of one kind or, with "", of all. Started, Finished and Exit are not set.
func (e *Engine) List(ctx context.Context, kind Kind) ([]Container, error) {
	if kind == "" {
		return e.list(ctx, filters.Arg("label", labelKind))
	}
	return e.list(ctx, filters.Arg("label", labelKind+"="+string(kind)))
}

func (e *Engine) list(ctx context.Context, wanted ...filters.KeyValuePair) ([]Container, error) {
	mine, err := e.ownership(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	raw, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(wanted...)})
	if err != nil {
		return nil, clientError(ctx, "list containers", err)
	}
	list := make([]Container, 0, len(raw))
	for _, r := range raw {
		owned, outdated := mine.owns(r.Labels, r.Mounts)
		if !owned {
			continue
		}
		c := fromLabels(r.Labels)
		c.ID, c.ImageID, c.Status, c.Created, c.Outdated = r.ID, r.ImageID, r.State, time.Unix(r.Created, 0).UTC(), outdated
		list = append(list, c)
	}
	return list, nil
}

// Sweep removes the containers of a kind for which keep is false (all, if keep is nil): what a process that died left behind. It goes on after
// a failure, and returns what it removed.
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

// Wait returns when the container doesn't run any more (at once if it doesn't now), or with ctx's error.
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
		// If it was removed meanwhile, the reason of its end can't be found any more.
		if c, err := e.Inspect(ctx, id); err == nil {
			exit.OOMKilled = c.Exit.OOMKilled
		}
		return exit, nil
	case err := <-failure:
		if cerrdefs.IsNotFound(err) {
			return Exit{}, fmt.Errorf("wait for container %.12s: %w", id, ErrNotFound)
		}
		return Exit{}, clientError(ctx, "wait for container", err)
	}
}
