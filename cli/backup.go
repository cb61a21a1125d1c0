package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/term"

	"github.com/rumi-ai/rumi/cli/internal/backup"
)

// version is the suite's, set when the binary is built.
var version = "unknown"

// backupCommand are the subcommands of `rumi backup`; without one a backup is written.
type backupCommand struct {
	Create   backupCreate   `cmd:"" default:"withargs" help:"Write an encrypted backup of the home into FILE, and verify it. The suite may run."`
	Verify   backupVerify   `cmd:"" help:"Read a backup from beginning to end, and say what is damaged or doesn't fit. Exit code 0: all is well; 1: it can't be read or is damaged; 3: it can be restored, and the home had problems."`
	Schedule backupSchedule `cmd:"" help:"Take backups again and again, verify each, and remove the oldest. Runs until it is stopped."`
	Key      backupKey      `cmd:"" help:"Make a key: the private part is written to FILE, the public part (age1…) is printed, for --recipient and RUMI_BACKUP_RECIPIENTS."`
}

// backupFlags say what is backed up, and for whom.
type backupFlags struct {
	Home           string   `help:"The Rumi home." default:"/rumi" type:"path"`
	Recipient      []string `help:"Public key of age (age1…) that the backup is encrypted for. May be repeated." env:"RUMI_BACKUP_RECIPIENTS" sep:","`
	RecipientsFile string   `help:"File with public keys, one a line." type:"path" optional:""`
	Passphrase     bool     `help:"Ask for a passphrase."`
	PassphraseFile string   `help:"File whose first line is the passphrase; - is standard input." env:"RUMI_BACKUP_PASSPHRASE_FILE" optional:""`
	Without        []string `help:"Leave out a part: pack_backups, import, packs, shared." sep:","`
	DatabaseURL    string   `help:"PostgreSQL, if the services use it." name:"database-url" env:"RUMI_DATABASE_URL" optional:""`
}

func (f *backupFlags) options(log *slog.Logger) (backup.Options, error) {
	o := backup.Options{Home: f.Home, Without: f.Without, Version: version, Postgres: f.DatabaseURL, Now: time.Now, Log: log}
	secret, err := passphrase(f.Passphrase, f.PassphraseFile, true)
	if err != nil {
		return o, err
	}
	if o.Recipients, err = backup.Recipients(strings.Join(f.Recipient, ","), f.RecipientsFile); err != nil || secret == "" {
		return o, err
	}
	if len(o.Recipients) > 0 {
		return o, errors.New("a backup is encrypted for recipients or with a passphrase, not both")
	}
	to, _, err := backup.Passphrase(secret)
	o.Recipients = []age.Recipient{to}
	return o, err
}

// passphrase is the passphrase that is in a file, or that is typed; "" if neither is wanted. Arguments and variables are no place for one: other
// processes see them.
func passphrase(ask bool, file string, twice bool) (string, error) {
	switch {
	case file == "-":
		data, err := io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
		line, _, _ := strings.Cut(string(data), "\n")
		return strings.TrimSuffix(line, "\r"), err
	case file != "":
		return backup.PassphraseFile(file)
	case !ask:
		return "", nil
	}
	first, err := typed("Passphrase: ")
	if err != nil || !twice {
		return first, err
	}
	if again, err := typed("Again: "); err != nil || again != first {
		return "", errors.Join(err, errors.New("the two passphrases differ"))
	}
	return first, nil
}

func typed(prompt string) (string, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", errors.New("there is no terminal to ask for the passphrase; use --passphrase-file")
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	text, err := term.ReadPassword(int(os.Stdin.Fd()))
	return string(text), err
}

type backupCreate struct {
	backupFlags
	File  string `arg:"" help:"Where the backup goes: a file outside of ecosystem/ and user_data/."`
	Force bool   `help:"Replace FILE if it exists."`
	JSON  bool   `help:"Print the report as JSON." name:"json"`

	Rehearse bool `help:"Also restore the backup into a scratch folder of the home, which is removed afterwards."`
}

func (c *backupCreate) Run(log *slog.Logger) error {
	ctx, stop := untilStopped()
	defer stop()
	o, err := c.options(log)
	if err != nil {
		return err
	}
	o.Rehearse = c.Rehearse
	report, err := backup.Create(ctx, c.File, c.Force, o)
	if err != nil {
		return err
	}
	return tellReport(report, c.JSON, report, "written and verified")
}

// openFlags say what opens a backup.
type openFlags struct {
	Identity       string `help:"File with the private key; - is standard input." optional:""`
	Passphrase     bool   `help:"Ask for the passphrase."`
	PassphraseFile string `help:"File whose first line is the passphrase; - is standard input." optional:""`
	Scratch        string `help:"Folder for copies of the databases while they are checked." type:"path" optional:""`
}

func (f *openFlags) source(file string) (backup.Source, error) {
	s := backup.Source{File: file, Scratch: f.Scratch}
	secret, err := passphrase(f.Passphrase, f.PassphraseFile, false)
	switch {
	case err != nil:
		return s, err
	case secret != "":
		_, from, err := backup.Passphrase(secret)
		s.Identities = []age.Identity{from}
		return s, err
	case f.Identity == "":
		return s, errors.New("say what opens it: --identity FILE (the private key) or --passphrase-file FILE")
	case f.Identity == "-":
		f.Identity = "/dev/stdin"
	}
	s.Identities, err = backup.Identities(f.Identity)
	return s, err
}

type backupVerify struct {
	openFlags
	File string `arg:"" help:"The backup."`
	JSON bool   `help:"Print the report as JSON." name:"json"`
}

func (c *backupVerify) Run() error {
	ctx, stop := untilStopped()
	defer stop()
	s, err := c.source(c.File)
	if err != nil {
		return err
	}
	report, err := backup.Verify(ctx, s)
	if err != nil {
		return err
	}
	return tellReport(report, c.JSON, report, "verified")
}

type backupKey struct {
	File string `arg:"" help:"Where the private key goes. Keep it in another place than the backups." type:"path"`
}

func (c *backupKey) Run() error {
	recipient, err := backup.NewIdentity(c.File)
	if err != nil {
		return err
	}
	fmt.Println(recipient)
	return nil
}

type backupSchedule struct {
	backupFlags
	Dir      string        `help:"Folder of the backups." default:"/backups" type:"path"`
	Interval time.Duration `help:"Time from one backup to the next." default:"24h" env:"RUMI_BACKUP_INTERVAL"`
	Keep     int           `help:"Number of verified backups that are kept." default:"7" env:"RUMI_BACKUP_KEEP"`
	Weeks    int           `help:"Further the newest of each of so many weeks." default:"0" env:"RUMI_BACKUP_KEEP_WEEKS"`
}

func (c *backupSchedule) Run(log *slog.Logger) error {
	ctx, stop := untilStopped()
	defer stop()
	if c.Interval < time.Minute || c.Keep < 1 || c.Weeks < 0 {
		return errors.New("RUMI_BACKUP_INTERVAL is 1m at least, RUMI_BACKUP_KEEP 1 at least, RUMI_BACKUP_KEEP_WEEKS 0 at least")
	}
	o, err := c.options(log)
	if err == nil && len(o.Recipients) == 0 {
		err = errors.New("set RUMI_BACKUP_RECIPIENTS to the public key that backups are encrypted for (rumi backup key FILE makes one), or RUMI_BACKUP_PASSPHRASE_FILE")
	}
	if err != nil {
		return err
	}
	return backup.Schedule{Options: o, Dir: c.Dir, Interval: c.Interval, Keep: c.Keep, Weeks: c.Weeks}.Run(ctx)
}

// untilStopped is a context that a signal ends. A backup that is stopped leaves nothing behind.
func untilStopped() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
}

// exit is an error with an exit code of its own.
type exit struct {
	error
	code int
}

// ExitCode implements kong's interface.
func (e exit) ExitCode() int { return e.code }

// problemsCode is the exit code of what was done, and found problems in the home.
const problemsCode = 3

// tellReport prints a report: all of it as JSON, or a line and the problems. A damaged backup is an error, and so are problems, with another code.
func tellReport(r backup.Report, asJSON bool, all any, done string) error {
	if asJSON {
		if err := json.MarshalWrite(os.Stdout, all, jsontext.Multiline(true)); err != nil {
			return err
		}
		fmt.Println()
	}
	for _, l := range append(r.Notes, r.LeftOut...) {
		fmt.Fprintf(os.Stderr, "note: %s: %s\n", l.Path, l.Why)
	}
	for _, p := range r.Problems {
		word := "problem"
		if p.Warning {
			word = "warning"
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", word, p)
	}
	switch {
	case r.Damaged():
		return exit{fmt.Errorf("%s is damaged and can't be restored", r.File), 1}
	case !r.OK:
		return exit{fmt.Errorf("%s: %s, with problems: see above", r.File, done), problemsCode}
	case !asJSON:
		fmt.Printf("%s: %s: %d files, %d MiB, %d databases, home %s of %s\n", filepath.Clean(r.File), done, r.Files, r.Bytes>>20, len(r.Databases), r.Head.HomeID,
			r.Head.CreatedAt.Format(time.RFC3339))
	}
	return nil
}
