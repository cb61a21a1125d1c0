package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/rumi-ai/rumi/cli/internal/backup"
)

type restoreCommand struct {
	openFlags
	File        string `arg:"" help:"The backup."`
	Home        string `help:"The Rumi home, which must be empty, or as init makes it." default:"/rumi" type:"path"`
	UID         int    `help:"User that services run as." name:"uid" default:"1099" env:"RUMI_UID"`
	GID         int    `help:"Group that services run as." name:"gid" default:"1099" env:"RUMI_GID"`
	Force       bool   `help:"Put a home that is in use aside, and restore."`
	DatabaseURL string `help:"PostgreSQL, if the services here use it: then the restore refuses." name:"database-url" env:"RUMI_DATABASE_URL" optional:""`
	JSON        bool   `help:"Print the report as JSON." name:"json"`
}

func (c *restoreCommand) Run(log *slog.Logger) error {
	ctx, stop := untilStopped()
	defer stop()
	s, err := c.source(c.File)
	if err != nil {
		return err
	}
	if s.Scratch == "" {
		s.Scratch = c.Home // where the databases will be anyway
	}
	log.Info("verifying the backup before anything is changed", "file", c.File)
	restored, err := backup.Restore(ctx, s, backup.Target{Home: c.Home, UID: c.UID, GID: c.GID, Force: c.Force, Postgres: c.DatabaseURL != "", Now: time.Now()})
	if err != nil {
		return err
	}
	if restored.SetAside != "" {
		fmt.Fprintln(os.Stderr, "note: what was there is in", restored.SetAside)
	}
	if restored.Woken > 0 {
		fmt.Fprintf(os.Stderr, "note: %d packs ran, and start again with: docker compose up --detach\n", restored.Woken)
	}
	for _, name := range restored.Beside {
		fmt.Fprintf(os.Stderr, "note: the backup's %s is beside yours, as %s\n", name[:len(name)-len(".restored")], name)
	}
	return tellReport(restored.Report, c.JSON, restored, "restored to "+c.Home)
}
