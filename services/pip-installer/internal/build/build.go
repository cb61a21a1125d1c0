// Package build installs what a lock lists, in a builder container. Nowhere else in the suite are package indexes asked,
// and nowhere else does the build code of source distributions run, which is any stranger's. Nothing that a builder leaves is trusted: package
// environment checks it.
package build

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/semaphore"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/tracing/step"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// Bounds of a build.
const (
	maxTime     = 10 * time.Minute
	maxDisk     = 4 << 30 // bytes by which the disk's free space may shrink during a build, pip's temporary files included
	maxParallel = 2       // builds at once in this process
	orphanAge   = maxTime + 5*time.Minute
	logTail     = 400 // lines at the end of a build's log that are read
	maxReason   = 600 // bytes of pip's messages in an error
)

//go:embed build.py
var script []byte

// Config says how to build.
type Config struct {
	Engine     *sandbox.Engine
	Image      string        // the builder image
	Dir        string        // work folders are made in it; it must exist, and nothing else may use it
	AllowCIDRs []string      // internal networks in which an index may lie
	CA         func() []byte // PEM certificates beside the public ones, for the next build; nil for none
	Log        *slog.Logger
	Metrics    prometheus.Registerer
}

// Builder makes environments. It is safe for concurrent use.
type Builder struct {
	cfg   Config
	slots *semaphore.Weighted

	waiting, running prometheus.Gauge
}

// New makes a Builder, and registers its metrics.
func New(cfg Config) *Builder {
	b := &Builder{
		cfg: cfg, slots: semaphore.NewWeighted(maxParallel),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rumi_installs_waiting", Help: "Installs that wait for others to end: two run at once."}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rumi_installs_running", Help: "Installs whose builder runs."}),
	}
	cfg.Metrics.MustRegister(b.waiting, b.running)
	return b
}

// Request says what to install, and how.
type Request struct {
	PackID       string
	Requirements []lock.Requirement
	IndexURL     string // "" for pip's own default
	AllowSdist   bool   // otherwise wheels only, of which no code runs
}

// Failure is the error of a build that ran and did not succeed.
type Failure struct {
	Reason      string
	Unreachable bool // the index didn't answer: trying again may help
}

func (f *Failure) Error() string { return "build environment: " + f.Reason }

// AddressError says that the index, or a host to which it redirects pip, has an internal address that may not be used.
type AddressError struct{ Host string }

func (e *AddressError) Error() string {
	return fmt.Sprintf("build environment: host %q has an internal address", e.Host)
}

// Result is a finished build.
type Result struct {
	Dir    string       // the folder for sys.path, as the builder left it: nothing in it is checked
	Remove func() error // removes Dir; the caller calls it when it has copied what it needs
}

// Build installs the requirements. A *Failure or an *AddressError says that this request can't be built; any other error
// (Docker is down, the image is missing, ctx ended) says nothing about the request.
func (b *Builder) Build(ctx context.Context, req Request) (Result, error) {
	waiting, end := step.Begin(ctx, "pip.queue", step.Internal)
	err := b.acquireSlot(waiting)
	end(err)
	if err != nil {
		return Result{}, fmt.Errorf("wait for other builds: %w", err)
	}
	defer b.slots.Release(1)
	b.running.Inc()
	defer b.running.Dec()
	w, err := b.prepare(req)
	if err != nil {
		return Result{}, fmt.Errorf("prepare build: %w", err)
	}
	building, end := step.Begin(ctx, "pip.build", step.Internal, attribute.String("rumi.pack_id", req.PackID), attribute.Int("rumi.requirements", len(req.Requirements)))
	err = b.run(building, w, req.PackID)
	end(err)
	if err != nil {
		return Result{}, errors.Join(err, w.remove())
	}
	return Result{Dir: filepath.Join(w.scratch(), "out"), Remove: w.remove}, nil
}

func (b *Builder) acquireSlot(ctx context.Context) error {
	b.waiting.Inc()
	defer b.waiting.Dec()
	return b.slots.Acquire(ctx, 1)
}

// request is the file that build.py reads.
type request struct {
	Requirements []string            `json:"requirements"`
	Extras       map[string][]string `json:"extras"` // by normalised name
	IndexURL     string              `json:"index_url"`
	AllowSdist   bool                `json:"allow_sdist"`
	AllowCIDRs   []string            `json:"allow_cidrs"`
}

func (b *Builder) prepare(req Request) (*workDir, error) {
	r := request{Extras: map[string][]string{}, IndexURL: req.IndexURL, AllowSdist: req.AllowSdist, AllowCIDRs: append([]string{}, b.cfg.AllowCIDRs...)}
	for _, requirement := range req.Requirements {
		r.Requirements = append(r.Requirements, requirement.String())
		if len(requirement.Extras) > 0 {
			r.Extras[requirement.Key()] = requirement.Extras
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"request.json": text, "build.py": script}
	if b.cfg.CA != nil {
		files["ca.pem"] = b.cfg.CA()
	}
	return b.newWork(files)
}

// result is the last line that build.py prints.
type result struct {
	OK      bool   `json:"ok"`
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

func (b *Builder) run(ctx context.Context, w *workDir, packID string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, &Failure{Reason: fmt.Sprintf("the build took longer than %v", maxTime)})
	defer cancel()
	spec := b.spec(w, []string{"python3", "-I", "/build/build.py"})
	spec.PackID = packID
	full := make(chan struct{})
	go func() {
		if w.watchDisk(ctx) {
			close(full)
			cancel()
		}
	}()
	exit, lines, err := b.container(ctx, spec)
	select {
	case <-full:
		return &Failure{Reason: fmt.Sprintf("the build used more than %d GiB of disk", maxDisk>>30)}
	default:
	}
	if failure, ok := errors.AsType[*Failure](context.Cause(ctx)); ok {
		return failure
	}
	if err != nil {
		return err
	}
	if exit.OOMKilled {
		return &Failure{Reason: "the build needs more memory than a builder has"}
	}
	return parseResult(exit, lines)
}

func (b *Builder) spec(w *workDir, argv []string) sandbox.Spec {
	return sandbox.Spec{
		Kind: sandbox.Builder, Name: w.name, Image: b.cfg.Image, Dir: "/work",
		Command: append([]string{"/usr/local/bin/rumi-runtime", "run", "--"}, argv...),
		Env: map[string]string{
			"PIP_CONFIG_FILE": os.DevNull, "TMPDIR": "/work/tmp", "HOME": "/work/tmp", "LANG": "C.UTF-8",
			"SOURCE_DATE_EPOCH": "315532800", // 1980, the beginning of zip's time: the same sources build the same bytes
		},
		Mounts: []sandbox.Mount{{Source: w.input(), Target: "/build"}, {Source: w.scratch(), Target: "/work", Writable: true}},
	}
}

// container runs a container to its end, removes it, and returns the end of its log.
func (b *Builder) container(ctx context.Context, spec sandbox.Spec) (exit sandbox.Exit, lines []sandbox.Line, err error) {
	made, err := b.cfg.Engine.Create(ctx, spec)
	if err != nil {
		return exit, nil, err
	}
	defer func() {
		if removeErr := b.cfg.Engine.Remove(context.WithoutCancel(ctx), made.ID); removeErr != nil {
			b.cfg.Log.ErrorContext(ctx, "could not remove a builder", "container", made.ID, "error", removeErr)
		}
	}()
	if err := b.cfg.Engine.Start(ctx, made.ID); err != nil {
		return exit, nil, err
	}
	if exit, err = b.cfg.Engine.Wait(ctx, made.ID); err != nil {
		return exit, nil, err
	}
	for line, err := range b.cfg.Engine.Logs(ctx, made.ID, sandbox.LogOptions{Tail: logTail}) {
		if err != nil {
			return exit, nil, err
		}
		lines = append(lines, line)
	}
	return exit, lines, nil
}

// parseResult makes an error of how build.py ended and what it printed. The packages that were built can print anything, too,
// so nothing that is decided here may do harm if it is wrong.
func parseResult(exit sandbox.Exit, lines []sandbox.Line) error {
	var reported result
	var pipErrors []string
	for _, line := range lines {
		if line.Stream == "stdout" && strings.HasPrefix(line.Text, "{") {
			reported = result{}
			_ = json.Unmarshal([]byte(line.Text), &reported) // no result is the zero one
		} else if text, ok := strings.CutPrefix(line.Text, "ERROR: "); ok {
			pipErrors = append(pipErrors, text)
		}
	}
	if reported.OK && exit.Code == 0 {
		return nil
	}
	reason := printable(strings.Join(pipErrors, "; "))
	if reason == "" {
		reason = fmt.Sprintf("the builder ended with status %d", exit.Code)
	}
	switch reported.Kind {
	case "unreachable":
		return &Failure{Reason: reason, Unreachable: true}
	case "address":
		return &AddressError{Host: printable(reported.Message)}
	case "unlisted":
		return &Failure{Reason: "the lock does not list a dependency: " + printable(reported.Message)}
	default:
		return &Failure{Reason: reason}
	}
}

// printable keeps the end of a text, where pip has its summary, as one line without control characters.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsGraphic(c) {
			return c
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxReason { // not text.Clip: an installer says at the end why it failed
		s = "…" + strings.ToValidUTF8(s[len(s)-maxReason:], "")
	}
	return strings.TrimSpace(s)
}

// Check says whether builds can be made.
func (b *Builder) Check(ctx context.Context) error {
	if status := b.cfg.Engine.Status(ctx); !status.Available {
		return fault.DockerUnavailable().Because(errors.New(status.Error))
	}
	_, err := b.cfg.Engine.Image(ctx, b.cfg.Image)
	return err
}

// Sweep removes builders and work folders that a process that died has left. It goes by age, so builds of other replicas
// are left alone.
func (b *Builder) Sweep(ctx context.Context) error {
	_, err := b.cfg.Engine.Sweep(ctx, sandbox.Builder, func(c sandbox.Container) bool { return time.Since(c.Created) < orphanAge })
	entries, readErr := os.ReadDir(b.cfg.Dir)
	err = errors.Join(err, readErr)
	for _, e := range entries {
		if info, statErr := e.Info(); statErr == nil && e.IsDir() && time.Since(info.ModTime()) >= orphanAge {
			err = errors.Join(err, (&workDir{builder: b, name: e.Name(), dir: filepath.Join(b.cfg.Dir, e.Name())}).remove())
		}
	}
	if err != nil {
		return fmt.Errorf("sweep builds: %w", err)
	}
	return nil
}
