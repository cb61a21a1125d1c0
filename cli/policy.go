package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rumi-ai/rumi/cli/internal/api"
	"github.com/rumi-ai/rumi/cli/internal/policy"
)

// policyCommands are the subcommands of `rumi policy`.
type policyCommands struct {
	Check policyCheckCommand `cmd:"" help:"Say what the policy, or a FILE that is to become it, does not cover of what is granted. Exit status 3 if there is anything."`
}

type policyCheckCommand struct {
	api.Flags
	File string `arg:"" optional:"" help:"A policy to check by, such as user_data/settings/policy.new.json; - is the standard input. Default: the one in force."`
	JSON bool   `help:"Print JSON." name:"json"`
}

// Run implements the command.
func (c *policyCheckCommand) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client, err := c.Open()
	if err != nil {
		return err
	}
	return policy.Check(ctx, client, c.File, os.Stdin, os.Stdout, c.JSON)
}
