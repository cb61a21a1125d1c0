// Command rumi sets up a Rumi installation. `rumi init` prepares a Rumi home before the services start, and `rumi reconcile` corrects
// what changes while they run; both need root, and are services of docker-compose.yml. What they do is in internal/setup. `rumi audit`
// seals the audit log and verifies it; see internal/auditlog. `rumi backup` and `rumi restore` keep and move a home; see internal/backup.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/rumi-ai/rumi/cli/internal/setup"
	"github.com/rumi-ai/rumi/libs/identity"
)

// commands are the subcommands of `rumi`.
type commands struct {
	Audit     auditCommand     `cmd:"" help:"Seal the audit log so that it can't be rewritten, verify it, and prove entries."`
	Init      initCommand      `cmd:"" help:"Prepare a Rumi home: folders with owners and modes, the API token, keys and certificates. Needs root. Safe to repeat."`
	Reconcile reconcileCommand `cmd:"" help:"Keep right what changes while the suite runs: the folders of sockets, as after a reboot, and the API token that the gateway sees. Needs root. Runs until it is stopped."`
	Backup    backupCommand    `cmd:"" help:"Back up a home into one encrypted file, verify such files, and take backups on a schedule."`
	Restore   restoreCommand   `cmd:"" help:"Make the home of a backup, on this machine or another. What is there is never removed."`
	Upgrade   upgradeCommand   `cmd:"" help:"Replace the running suite by another version, and put the old one back where that fails. Runs on the host."`
	Databases databasesCommand `cmd:"" hidden:""`

	Certificates certificatesCommand `cmd:"" help:"The certificates by which services know each other: list them, revoke those of a service. Needs root."`
	Policy       policyCommands      `cmd:"" help:"The policy: what nobody may grant."`
}

// homeFlags are the flags of both subcommands: the home, and the users and groups it is prepared for.
type homeFlags struct {
	Home              string               `help:"The Rumi home: the folder that holds ecosystem/ and user_data/." default:"/rumi" type:"path"`
	EgressSockets     string               `help:"Folder of the egress sockets." default:"/run/rumi/egress/packs" type:"path"`
	CapabilitySockets string               `help:"Folder of the capability sockets." default:"/run/rumi/capability/principals" type:"path"`
	UID               int                  `help:"User that services run as." name:"uid" default:"1099" env:"RUMI_UID"`
	GID               int                  `help:"Group that services run as." name:"gid" default:"1099" env:"RUMI_GID"`
	EgressGID         int                  `help:"Group of the egress sockets." name:"egress-gid" default:"1099" env:"RUMI_EGRESS_SOCKET_GID"`
	CapabilityGID     int                  `help:"Group of the capability sockets." name:"capability-gid" default:"1099" env:"RUMI_CAPABILITY_SOCKET_GID"`
	TLSCertFile       string               `help:"The certificate of the API on the host, PEM." name:"tls-cert" env:"RUMI_TLS_CERT_FILE" optional:""`
	TLSKeyFile        string               `help:"Its key on the host, PEM." name:"tls-key" env:"RUMI_TLS_KEY_FILE" optional:""`
	TLSDir            string               `help:"The folder on the host above both, mounted at its own path below /operator/host." name:"tls-dir" env:"RUMI_TLS_DIR" optional:""`
	RunDir            string               `help:"How the operator names the folder above both folders of sockets, for messages." default:"/run/rumi" env:"RUMI_RUN_DIR"`
	CertificateLife   identity.LifeSetting `help:"How long certificates live that are issued: 5s to 2160h." name:"certificate-life" default:"2160h" env:"RUMI_CERTIFICATE_LIFE"`
}

func (c *homeFlags) config() setup.Config {
	return setup.Config{
		Home:              c.Home,
		EgressSockets:     c.EgressSockets,
		CapabilitySockets: c.CapabilitySockets,
		UID:               c.UID,
		GID:               c.GID,
		EgressGID:         c.EgressGID,
		CapabilityGID:     c.CapabilityGID,
		ServerCert:        setup.ServerCert{Cert: c.TLSCertFile, Key: c.TLSKeyFile, Dir: c.TLSDir},
		CertificateLife:   time.Duration(c.CertificateLife),
		RunDir:            c.RunDir,
		Now:               time.Now(),
	}
}

type initCommand struct {
	homeFlags
	EgressCAFile string `help:"RUMI_EGRESS_CA_FILE, the operator's path of a file that is mounted at /operator/egress-ca." name:"egress-ca" env:"RUMI_EGRESS_CA_FILE" optional:""`
	PipCAFile    string `help:"RUMI_PIP_CA_FILE, the operator's path of a file that is mounted at /operator/pip-ca." name:"pip-ca" env:"RUMI_PIP_CA_FILE" optional:""`
	Settings     string `help:"Compose file whose settings are known; others in the environment are refused. Empty: no check." type:"path" optional:""`
}

func (c *initCommand) Run(log *slog.Logger) error {
	if c.Settings != "" {
		if err := setup.CheckSettings(c.Settings, os.Environ()); err != nil {
			return err
		}
	}
	cfg := c.config()
	cfg.Authorities = []setup.Authorities{
		{Setting: "RUMI_EGRESS_CA_FILE", Given: c.EgressCAFile, File: "/operator/egress-ca", Name: "egress"},
		{Setting: "RUMI_PIP_CA_FILE", Given: c.PipCAFile, File: "/operator/pip-ca", Name: "pip"},
	}
	return setup.Run(cfg, log)
}

type reconcileCommand struct{ homeFlags }

func (c *reconcileCommand) Run(log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return setup.Reconcile(ctx, c.config(), log)
}

func main() {
	dropEmptySettings()
	ctx := kong.Parse(&commands{}, kong.Name("rumi"), kong.Description("Rumi sets up and runs packs that nobody has to trust."), kong.UsageOnError())
	ctx.Bind(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	ctx.FatalIfErrorf(ctx.Run())
}

// dropEmptySettings makes an empty setting the same as none, as for the services: `RUMI_X=` in .env reaches the process as an empty value.
func dropEmptySettings() {
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); value == "" && strings.HasPrefix(name, "RUMI_") {
			_ = os.Unsetenv(name)
		}
	}
}
