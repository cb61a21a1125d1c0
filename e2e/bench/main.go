// Command bench measures a whole suite over real sockets, as clients use it, and prints one table. Each row has the goal (design.md, "Numbers
// to reach"), the measured number, and the number of a comparable tool in the same run. It needs root, Go and, for
// the rows with containers, Docker with the image of packs (`make images`).
//
// The services run as bare processes with mutual TLS between them; see package suite. The numbers depend on the other work of the machine.
// The ratios hardly do, because the contestants take turns.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// commands are the program's commands, a field each.
type commands struct {
	Run   runCommand   `cmd:"" default:"withargs" help:"Measure and print the table."`
	Relay relayCommand `cmd:"" hidden:"" help:"Pass connections on; what tunnels and uploads are compared with."`
	Keep  keepCommand  `cmd:"" hidden:"" help:"Keep what connections bring; what uploads are compared with."`
}

type runCommand struct {
	Parts []string `arg:"" optional:"" help:"What to measure: ${parts}. Everything by default."`
	Quick bool     `help:"Take every step, but measure next to nothing: shows that the driver works."`
	Root  string   `help:"The repository." default:"." type:"existingdir"`
	Image string   `help:"The image of packs." default:"rumi-pack:local"`
}

func (c *runCommand) Run(ctx context.Context) error {
	cfg := config{root: c.Root, build: production, image: c.Image, scale: full, out: os.Stdout, progress: os.Stderr}
	if c.Quick {
		cfg.scale = quick
	}
	return run(ctx, cfg, c.Parts)
}

// production are the flags of go build that deploy/Dockerfile builds with.
var production = []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w"}

// scale is how much is measured.
type scale struct {
	rounds   int           // of each contestant
	each     time.Duration // the length of a round
	idle     time.Duration // the wait before idle memory is measured
	packs    int           // to scan, of 50 files
	repeats  int           // of slow operations: cold starts, scans, changes, imports
	revokes  int           // enough for a 99th percentile
	approved int           // packs to approve
	archive  int64         // size of the archive to import, in bytes
	tokens   int           // of the API, beside init's, while the gateway is measured
}

var (
	full  = scale{rounds: 3, each: 1500 * time.Millisecond, idle: 3 * time.Second, packs: 200, repeats: 5, revokes: 100, approved: 30, archive: 499 << 20, tokens: 10000}
	quick = scale{rounds: 1, each: 20 * time.Millisecond, idle: 0, packs: 3, repeats: 1, revokes: 2, approved: 2, archive: 3 << 20, tokens: 20}
)

type config struct {
	root     string
	build    []string // flags of go build
	image    string
	scale    scale
	out      io.Writer // the table
	progress io.Writer
}

// bench is one run of the benchmarks.
type bench struct {
	config
	suite *suite.Suite
	rows  []table.Row
}

// part is a group of rows that can be measured alone.
type part struct {
	name    string
	measure func(*bench, context.Context) error
}

// parts are in the order in which they are measured. memory comes first, because it needs a suite that has done nothing; packs comes last,
// because it fills the home.
var parts = []part{
	{"memory", (*bench).memory},
	{"egress", (*bench).egress},
	{"tunnel", (*bench).tunnel},
	{"gateway", (*bench).gateway},
	{"capability", (*bench).capability},
	{"revoke", (*bench).revoke},
	{"observed", (*bench).observed},
	{"packs", (*bench).packs},
}

func partNames() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// run measures the named parts, or all if none is named, and prints the table. If a part fails, the others are measured all the same, and the
// error is returned at the end.
func run(ctx context.Context, cfg config, names []string) (err error) {
	for _, name := range names {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("measure: there is no part %q; there are %s", name, strings.Join(partNames(), ", "))
		}
	}
	began := time.Now()
	if cfg.root, err = filepath.Abs(cfg.root); err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	fmt.Fprintln(cfg.progress, "bench: building and starting the suite")
	b := &bench{config: cfg}
	b.suite, err = suite.Start(ctx, suite.Config{Root: cfg.root, Build: cfg.build, Settings: settings(cfg.image)})
	if b.suite != nil {
		defer func() { err = errors.Join(err, b.suite.Stop()) }()
	}
	if err != nil {
		return err
	}
	var failures []error
	for _, p := range parts {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		fmt.Fprintf(cfg.progress, "bench: %s\n", p.name)
		if err := p.measure(b, ctx); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", p.name, err))
			b.row(table.Row{Path: p.name, Missing: "failed, see below"})
		}
		if ctx.Err() != nil {
			break
		}
	}
	sync, err := b.syncedAppend()
	if err != nil {
		failures = append(failures, err)
	}
	fmt.Fprintf(cfg.out, "\nRumi beside others: %d processors, %s, load %s, a synced append to this disk takes %s, %v in all\n\n", runtime.NumCPU(), runtime.Version(),
		loadAverage(), table.Seconds.Format(sync.Seconds()), time.Since(began).Round(time.Second))
	if err := table.Print(cfg.out, b.rows); err != nil {
		return err
	}
	if len(failures) > 0 {
		failures = append(failures, errors.New("what the services logged last:\n"+b.suite.Explain()))
	}
	return errors.Join(failures...)
}

// settings are those of a suite that is measured. Limits are on, as in production, but so high that no request reaches them.
func settings(image string) map[string]map[string]string {
	return map[string]map[string]string{
		"gateway":      {"RUMI_API_RATE_LIMIT": "1000000000", "RUMI_API_RATE_WINDOW": "1"},
		"egress-proxy": {"RUMI_EGRESS_RATE_LIMIT": "1000000000", "RUMI_AUDIT_REFUSALS": "0", "RUMI_EGRESS_ALLOW_CIDRS": "127.0.0.0/8"},
		"capability-broker": {"RUMI_SECRET_GET_RATE_LIMIT": "1000000000", "RUMI_CAPABILITY_RATE_LIMIT": "1000000000", "RUMI_PACK_IMAGE": image,
			"RUMI_CAPABILITY_WORKERS_PER_HANDLER": "1", "RUMI_CAPABILITY_WORKER_IDLE": "1s"},
	}
}

func (b *bench) row(r table.Row) { b.rows = append(b.rows, r) }

// loadAverage is the system's load average of the last minute, as /proc/loadavg has it.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(text), " ")
	return minute
}

// syncedAppend is the median time of an append of 500 bytes with fdatasync. A denial, a decision and secrets.get can't be faster, because
// their audit entry is on the disk before they are answered.
func (b *bench) syncedAppend() (time.Duration, error) {
	dir, err := b.suite.Dir("disk")
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "appended"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	defer f.Close()
	var took []time.Duration
	for range 50 {
		began := time.Now()
		_, err := f.WriteString(strings.Repeat("x", 500) + "\n")
		if err == nil {
			err = syscall.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		took = append(took, time.Since(began))
	}
	p50, _ := load.Durations(took)
	return p50, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed := kong.Parse(&commands{}, kong.Name("bench"), kong.Description("Measures Rumi beside the tools that do the like."),
		kong.UsageOnError(), kong.Vars{"parts": strings.Join(partNames(), ", ")})
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}
