package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
	"github.com/rumi-ai/rumi/libs/mounts"
)

// auditCommand are the subcommands of `rumi audit`.
type auditCommand struct {
	Verify      auditVerify      `cmd:"" help:"Compare the audit log with its seals, and name every difference. Exit status: 0 all is well, 1 something differs, 2 it can't be verified."`
	Checkpoint  auditCheckpoint  `cmd:"" help:"Print the newest signed checkpoint, to be kept on another machine."`
	Prove       auditProve       `cmd:"" help:"Print a proof that an entry was sealed (one JSON object a line), or that nothing was changed since an earlier checkpoint."`
	VerifyProof auditVerifyProof `cmd:"" help:"Verify proofs, on any machine: needs the public key only."`
	Seal        auditSeal        `cmd:"" help:"Seal the audit log while the suite runs. A service of docker-compose.yml; runs until it is stopped."`
	Health      auditHealth      `cmd:"" hidden:"" help:"Whether the sealer works and has noticed nothing. The health check of its container."`
}

// auditFlags name the home.
type auditFlags struct {
	Home string `help:"The Rumi home: the folder that holds user_data/." default:"/rumi" type:"path"`
}

func (f auditFlags) audit() string    { return filepath.Join(f.Home, "user_data/audit") }
func (f auditFlags) seals() string    { return filepath.Join(f.Home, "user_data/audit_log") }
func (f auditFlags) status() string   { return filepath.Join(f.Home, "user_data/seal_status") }
func (f auditFlags) settings() string { return filepath.Join(f.Home, "user_data/settings") }

// keyFlag names the public key.
type keyFlag struct {
	Key string `help:"File with the public key. A copy that was kept on another machine is better than the home's own (user_data/settings/audit_log.pub)." placeholder:"FILE"`
}

func (f keyFlag) read(home auditFlags) ([]byte, error) {
	path := f.Key
	if path == "" {
		path = filepath.Join(home.settings(), auditlog.PublicKeyFile)
	}
	return readFile(path)
}

// readFile reads a file, or standard input if it is called "-".
func readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}

// exitError ends the command with a status of its own.
type exitError struct {
	error
	status int
}

// ExitCode is the status.
func (e exitError) ExitCode() int { return e.status }

type auditVerify struct {
	auditFlags
	keyFlag
	Checkpoint    []string `help:"File with a checkpoint that was kept elsewhere, or - for standard input. The log must be a continuation of it. May be given several times." placeholder:"FILE"`
	RemovedBefore string   `help:"Accept that files of days before this one (UTC) were removed." placeholder:"2026-01-31"`
	JSON          bool     `help:"Print the report as one JSON object." name:"json"`
}

func (c *auditVerify) Run() error {
	report, err := c.verify()
	if err == nil {
		err = c.print(os.Stdout, report)
	}
	if err != nil {
		return exitError{fmt.Errorf("the audit log can't be verified: %w", err), 2}
	}
	if !report.OK {
		return exitError{fmt.Errorf("the audit log isn't as it was sealed: %d findings", len(report.Findings)+report.Omitted), 1}
	}
	return nil
}

func (c *auditVerify) verify() (*auditlog.Report, error) {
	if _, err := time.Parse(time.DateOnly, c.RemovedBefore); c.RemovedBefore != "" && err != nil {
		return nil, fmt.Errorf("--removed-before=%s is no date such as 2026-01-31", c.RemovedBefore)
	}
	key, err := c.read(c.auditFlags)
	if err != nil {
		return nil, err
	}
	options := auditlog.Options{Audit: c.audit(), Log: c.seals(), PublicKey: key, RemovedBefore: c.RemovedBefore, Now: time.Now(), Checkpoints: map[string][]byte{}}
	for _, path := range c.Checkpoint {
		if options.Checkpoints[path], err = readFile(path); err != nil {
			return nil, err
		}
	}
	return auditlog.Verify(options)
}

// print writes the report.
func (c *auditVerify) print(w io.Writer, report *auditlog.Report) error {
	if c.JSON {
		return json.MarshalWrite(w, report, jsontext.WithIndent("  "))
	}
	var text bytes.Buffer
	for _, f := range report.Findings {
		fmt.Fprintf(&text, "%s: %s\n", f.Kind, f)
	}
	for _, f := range report.Notes {
		fmt.Fprintf(&text, "note, %s: %s\n", f.Kind, f)
	}
	if report.Omitted > 0 {
		fmt.Fprintf(&text, "… and %d more\n", report.Omitted)
	}
	verdict := "is as it was sealed"
	if !report.OK {
		verdict = "is NOT as it was sealed"
	}
	fmt.Fprintf(&text, "The audit log %s: %d lines of %d files, %d signed records.\n", verdict, report.Lines, report.Files, report.Records)
	_, err := w.Write(text.Bytes())
	return err
}

type auditCheckpoint struct {
	auditFlags
	keyFlag
}

func (c *auditCheckpoint) Run() error {
	prover, _, err := openProver(c.auditFlags, c.keyFlag)
	if err != nil {
		return err
	}
	defer prover.Close()
	_, err = os.Stdout.Write(prover.Newest())
	return err
}

func openProver(home auditFlags, flag keyFlag) (*auditlog.Prover, []byte, error) {
	key, err := flag.read(home)
	if err != nil {
		return nil, nil, err
	}
	prover, err := auditlog.OpenProver(home.audit(), home.seals(), key)
	return prover, key, err
}

type auditProve struct {
	auditFlags
	keyFlag
	Entry     string `arg:"" optional:"" name:"file:line" help:"The entry: security_2026-01-31.jsonl:17."`
	RequestID string `help:"All entries with this request_id, in place of FILE:LINE." name:"request-id" placeholder:"ID"`
	Extends   string `help:"An earlier checkpoint: proves that the log is a continuation of it. - is standard input." placeholder:"FILE"`
}

func (c *auditProve) Run() error {
	given := 0
	for _, what := range []string{c.Entry, c.RequestID, c.Extends} {
		if what != "" {
			given++
		}
	}
	if given != 1 {
		return errors.New("say what to prove: FILE:LINE, --request-id=ID or --extends=FILE")
	}
	prover, key, err := openProver(c.auditFlags, c.keyFlag)
	if err != nil {
		return err
	}
	defer prover.Close()
	if c.Extends != "" {
		earlier, err := readFile(c.Extends)
		if err != nil {
			return err
		}
		made, err := prover.Extends(earlier, key)
		if err != nil {
			return err
		}
		return printLine(made)
	}
	return c.entries(prover)
}

// entries proves one entry, or all of a request.
func (c *auditProve) entries(prover *auditlog.Prover) error {
	var places []auditlog.Place
	var err error
	if c.RequestID != "" {
		places, err = prover.FindRequest(c.RequestID)
	} else {
		places = make([]auditlog.Place, 1)
		places[0], err = auditlog.ParsePlace(c.Entry)
	}
	if err != nil {
		return err
	}
	for _, at := range places {
		made, err := prover.Prove(at)
		if err != nil {
			return err
		}
		if err := printLine(made); err != nil {
			return err
		}
	}
	return nil
}

// printLine writes v as one line of JSON.
func printLine(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(data, '\n'))
	return err
}

type auditVerifyProof struct {
	Proof string `arg:"" default:"-" help:"File with proofs, as rumi audit prove prints them. - is standard input."`
	Key   string `help:"File with the public key." required:"" placeholder:"FILE"`
}

func (c *auditVerifyProof) Run() error {
	key, err := readFile(c.Key)
	if err != nil {
		return exitError{err, 2}
	}
	data, err := readFile(c.Proof)
	if err != nil {
		return exitError{err, 2}
	}
	proofs := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	for _, one := range proofs {
		if err := verifyProof(one, key); err != nil {
			return exitError{fmt.Errorf("this proof proves nothing: %w", err), 1}
		}
	}
	return nil
}

func verifyProof(data, key []byte) error {
	line, extension, err := auditlog.ParseProof(data)
	if err != nil {
		return err
	}
	if extension != nil {
		from, to, err := extension.Verify(key)
		if err != nil {
			return err
		}
		fmt.Printf("proven: the log of %d records is a continuation of the one of %d records, by %s\n", to.Size, from.Size, to.Origin)
		return nil
	}
	record, checkpoint, err := line.Verify(key)
	if err != nil {
		return err
	}
	which := line.File
	if line.Part > 1 {
		which += fmt.Sprintf(" (file %d of this name: another one was sealed before it)", line.Part)
	}
	fmt.Printf("proven: line %d of %s was sealed at %s, by %s (record %d of %d)\n%s\n", line.Line, which, record.At.Format(time.RFC3339), checkpoint.Origin,
		record.Number, checkpoint.Size, line.Entry)
	return nil
}

// maxDays bounds RUMI_AUDIT_KEEP_DAYS and RUMI_AUDIT_COMPRESS_DAYS: a hundred years.
const maxDays = 36500

type auditSeal struct {
	auditFlags
	Interval   time.Duration `help:"The time between two sealings." default:"500ms"`
	Checkpoint time.Duration `help:"How often the newest checkpoint is written to the log; 0s for never." default:"1h" env:"RUMI_AUDIT_CHECKPOINT_INTERVAL"`
	Compress   int           `help:"Compress files of days that ended longer ago than so many days; 0 for none." default:"7" env:"RUMI_AUDIT_COMPRESS_DAYS" name:"compress-days"`
	Keep       int           `help:"Remove files of days that ended longer ago than so many days; 0 keeps all." default:"0" env:"RUMI_AUDIT_KEEP_DAYS" name:"keep-days"`
}

func (c *auditSeal) Run(log *slog.Logger) error {
	if c.Interval < 10*time.Millisecond {
		return fmt.Errorf("--interval=%v is too short; 10ms at least", c.Interval)
	}
	if c.Checkpoint < 0 {
		return fmt.Errorf("RUMI_AUDIT_CHECKPOINT_INTERVAL=%v is no interval; write 1h, or 0s for none", c.Checkpoint)
	}
	if c.Compress < 0 || c.Keep < 0 || c.Keep > maxDays || c.Compress > maxDays {
		return fmt.Errorf("RUMI_AUDIT_KEEP_DAYS=%d, RUMI_AUDIT_COMPRESS_DAYS=%d: want numbers of days from 0 to %d", c.Keep, c.Compress, maxDays)
	}
	auditlog.LowerPriority(log)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	mounted, err := mounts.Read("/proc", c.audit(), c.seals(), c.status())
	if err != nil {
		return err
	}
	ctx, lost := context.WithCancelCause(ctx)
	go func() {
		if err := mounted.Watch(ctx); err != nil {
			lost(err)
		}
	}()
	err = auditlog.Run(ctx, auditlog.Config{
		Audit: c.audit(), Log: c.seals(), Status: c.status(), KeyFile: filepath.Join(c.settings(), auditlog.KeyDir, auditlog.KeyFile),
		Interval: c.Interval, Checkpoint: c.Checkpoint, CompressDays: c.Compress, KeepDays: c.Keep, Quiet: auditlog.DefaultQuiet,
	}, log)
	if cause := new(mounts.LostError); errors.As(context.Cause(ctx), &cause) {
		return cause // a restart mounts the new folder
	}
	return err
}

type auditHealth struct{ auditFlags }

func (c *auditHealth) Run() error { return auditlog.Health(c.status(), time.Now()) }
