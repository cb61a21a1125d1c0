// Command demo takes two packs through their whole life: a useful one that needs a domain and a secret, and a hostile one
// that tries every way out. deploy/demo/run brings up the suite of its own that it runs against.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/rumi-ai/rumi/e2e/internal/upstream"
)

// commands are the demo's parts, a field each.
type commands struct {
	Certs    certsCommand    `cmd:"" help:"Make the upstream's certificates, unless they are there."`
	Upstream upstreamCommand `cmd:"" help:"Serve the HTTPS upstream that the useful pack fetches from."`
	Run      runCommand      `cmd:"" help:"Take the packs through their life. Exits 1 on any surprise."`
}

type certsCommand struct {
	Dir  string `help:"Folder for ca.pem, cert.pem and key.pem." required:""`
	Name string `help:"Host name of the upstream." required:""`
}

func (c *certsCommand) Run(context.Context) error {
	return upstream.MakeCertificates(c.Dir, c.Name, time.Now())
}

type upstreamCommand struct {
	Dir    string `help:"Folder with the certificates, where requests are written down, too." required:""`
	Listen string `help:"Address to listen on." required:""`
}

func (c *upstreamCommand) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("serve upstream: %w", err)
	}
	return upstream.Serve(ctx, listener, c.Dir)
}

type runCommand struct {
	API        string        `help:"Where the gateway is." default:"http://gateway:8080"`
	Host       string        `help:"Host header, as an operator on the same machine sends it." default:"localhost:8765"`
	Home       string        `help:"The Rumi home." default:"/rumi"`
	Sockets    string        `help:"Folder with egress/packs and capability/principals." default:"/run/rumi"`
	Docker     string        `help:"The Docker engine's socket." default:"/var/run/docker.sock"`
	Packs      string        `help:"Folder with the example packs." default:"/packs"`
	Upstream   string        `help:"Folder where the upstream writes down its requests." default:"/upstream"`
	Domain     string        `help:"Host name of the upstream." default:"forecast.rumi.test"`
	Port       int           `help:"Port of the upstream." default:"8443"`
	RunTimeout time.Duration `help:"For all of it." default:"5m"`
}

func (c *runCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.RunTimeout)
	defer cancel()
	token, err := os.ReadFile(filepath.Join(c.Home, "user_data/settings/api_token"))
	if err != nil {
		return fmt.Errorf("read API token: %w (is the suite up?)", err)
	}
	return newRunner(c, string(token), os.Stdout).lifecycle(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	parsed := kong.Parse(&commands{}, kong.Name("demo"), kong.UsageOnError())
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.FatalIfErrorf(parsed.Run())
}
