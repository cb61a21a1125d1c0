package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/cli/internal/backup"
	"github.com/rumi-ai/rumi/cli/internal/upgrade"
)

type upgradeCommand struct {
	To       string        `arg:"" help:"The git revision to upgrade to. Without one, what is checked out." optional:""`
	From     string        `help:"Without a revision to upgrade to: the commit of the version that runs. ORIG_HEAD is that of before git pull." default:"ORIG_HEAD"`
	Dir      string        `help:"The folder with docker-compose.yml." default:"." type:"path"`
	Timeout  time.Duration `help:"How long the new version may take to become healthy." default:"3m"`
	Back     bool          `help:"Go back to the version from before the last upgrade."`
	NoBackup bool          `help:"Don't back up first."`
	NoBuild  bool          `help:"The new images are there already."`
}

// Run upgrades, with one line on standard output that says how it went. It runs on the host, as a user who may use Docker.
func (c *upgradeCommand) Run() error {
	ctx, stop := untilStopped()
	defer stop()
	began := time.Now()
	cfg := upgrade.Config{
		Dir: c.Dir, To: c.To, From: c.From, Timeout: c.Timeout, NoBackup: c.NoBackup, NoBuild: c.NoBuild,
		Progress: os.Stderr, Run: upgrade.Exec, Now: time.Now, Poll: 200 * time.Millisecond,
	}
	if c.Back {
		changed, err := upgrade.Back(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Printf("the version from before the upgrade runs again, after %v\n", time.Since(began).Round(time.Second))
		if changed != "" {
			fmt.Fprintf(os.Stderr, "note: what was written since the upgrade to the databases of %s is put aside in user_data/state/backup\n", changed)
		}
		return nil
	}
	if err := upgrade.Run(ctx, cfg); err != nil {
		return err
	}
	fmt.Printf("upgraded in %v; rumi upgrade --back is the way back\n", time.Since(began).Round(time.Second))
	return nil
}

// databasesCommand is what an upgrade does with databases and certificates, in a container of the suite.
type databasesCommand struct {
	Save databasesSave `cmd:"" help:"Copy all databases and certificates into a set."`
	Back databasesBack `cmd:"" help:"Put back the certificates of a set and the databases that have other migrations now, and print whose those are."`
}

type databasesSave struct {
	Set  string `arg:"" help:"The name of the set."`
	Home string `help:"The Rumi home." default:"/rumi" type:"path"`
}

func (c *databasesSave) Run() error {
	ctx, stop := untilStopped()
	defer stop()
	return backup.SaveState(ctx, c.Home, c.Set)
}

type databasesBack struct {
	Set  string `arg:"" help:"The name of the set."`
	Home string `help:"The Rumi home." default:"/rumi" type:"path"`
}

func (c *databasesBack) Run() error {
	ctx, stop := untilStopped()
	defer stop()
	changed, err := backup.PutBackState(ctx, c.Home, c.Set)
	fmt.Println(strings.Join(changed, " "))
	return err
}
