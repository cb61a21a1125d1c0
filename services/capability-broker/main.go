// Command capability-broker runs what packs may not do themselves, and the packs: handler candidates and trust, grants,
// one capability socket a pack, warm handler containers, pack containers.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/service"
)

type config struct {
	SockDir       string `env:"RUMI_CAPABILITY_SOCK_DIR" envDefault:"/run/rumi/capability/principals"`
	SocketGID     int    `env:"RUMI_CAPABILITY_SOCKET_GID" envDefault:"-1"` // group of the sockets; without one no container can use them
	SocketMode    string `env:"RUMI_CAPABILITY_SOCKET_MODE" envDefault:"0660"`
	EgressSockDir string `env:"RUMI_EGRESS_SOCK_DIR" envDefault:"/run/rumi/egress/packs"`
	EgressGID     int    `env:"RUMI_EGRESS_SOCKET_GID" envDefault:"-1"`
	EgressCAFile  string `env:"RUMI_EGRESS_CA_FILE"` // PEM; packs verify servers by these, too, beside the system's
	SecurityMode  string `env:"RUMI_SECURITY_MODE" envDefault:"strict"`
	RuntimeDir    string `env:"RUMI_RUNTIME_DIR" envDefault:"/usr/local/lib/rumi"` // holds the runtime's lib/ and worker/, for permissive
	DockerSocket  string `env:"RUMI_DOCKER_SOCKET" envDefault:"/var/run/docker.sock"`
	Instance      string `env:"RUMI_INSTANCE"` // keeps suites on one Docker apart; default: the compose project
	Image         string `env:"RUMI_PACK_IMAGE" envDefault:"rumi-pack:local"`
	Refusals      int    `env:"RUMI_AUDIT_REFUSALS" envDefault:"100000"`     // with entries of their own, a day and principal; 0 is any number
	CallRate      int    `env:"RUMI_CAPABILITY_RATE_LIMIT" envDefault:"600"` // calls a minute and principal that no other rate bounds; 0 is off
	SecretRate    int    `env:"RUMI_SECRET_GET_RATE_LIMIT" envDefault:"60"`  // a minute and principal; 0 is off
	StoreMax      int64  `env:"RUMI_STORE_MAX_BYTES" envDefault:"67108864"`  // of one store_id's keys and values

	Runtime   string `env:"RUMI_CONTAINER_RUNTIME"`                // of every container, by the name Docker knows it; default: Docker's own
	DataMaxMB int64  `env:"RUMI_PACK_DATA_MAX_MB" envDefault:"0"`  // MiB of a pack's /data; 0 is off
	DataKept  int    `env:"RUMI_PACK_DATA_BACKUPS" envDefault:"5"` // folders of a pack's /data that uninstalls put aside

	MountRoots []string      `env:"RUMI_CAPABILITY_MOUNT_ROOTS"`                 // folders beside user_data/shared in which handlers may see some, separated by commas
	MaxTimeout time.Duration `env:"RUMI_CAPABILITY_MAX_TIMEOUT" envDefault:"2m"` // of a handler's call

	Ceiling ceiling
	Workers workers
}

// Values of RUMI_SECURITY_MODE.
const (
	strict     = "strict"     // packs and handlers run in containers or not at all
	permissive = "permissive" // they run as processes, without Docker
)

// UsesDocker keeps a process that starts as root out of the group of Docker's socket where it starts what nothing confines.
func (c config) UsesDocker() bool { return c.SecurityMode != permissive }

// ceiling is what no container may have more of, whatever a pack or a grant says.
type ceiling struct {
	MemoryMB int64   `env:"RUMI_CONTAINER_MAX_MEMORY_MB" envDefault:"512"`
	CPUs     float64 `env:"RUMI_CONTAINER_MAX_CPUS" envDefault:"1"`
	PIDs     int64   `env:"RUMI_CONTAINER_MAX_PIDS" envDefault:"128"`
}

func (c ceiling) limits() sandbox.Limits {
	return sandbox.Limits{Memory: c.MemoryMB << 20, CPUs: c.CPUs, PIDs: c.PIDs}
}

func main() { service.Main("capability-broker", build) }

// build assembles the broker: state first, then what decides, what runs, and at last what listens.
func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	if err := cfg.check(); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	b := &broker{rt: rt, cfg: cfg}
	for _, step := range []func(context.Context) error{b.state, b.runners, b.decisions, b.sockets, b.routes} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}
