package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// config is what the operator can set (docs/settings.md). service reads it strictly; check refuses values that are out of bounds.
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
	Refusals      int    `env:"RUMI_AUDIT_REFUSALS" envDefault:"100000"`     // refusals with audit entries of their own, a day and principal; 0 is any number
	CallRate      int    `env:"RUMI_CAPABILITY_RATE_LIMIT" envDefault:"600"` // calls a minute of one principal for which no grant or permission sets a rate; 0 is any number
	SecretRate    int    `env:"RUMI_SECRET_GET_RATE_LIMIT" envDefault:"60"`  // calls of secrets.get a minute of one principal; 0 is any number
	StoreMax      int64  `env:"RUMI_STORE_MAX_BYTES" envDefault:"67108864"`  // bytes of one store's keys and values

	Approvals confirm.Approvals `env:"RUMI_APPROVALS_REQUIRED" envDefault:"1"` // persons that the approval of a handler takes

	Runtime   string `env:"RUMI_CONTAINER_RUNTIME"`                // of every container, by the name Docker knows it; default: Docker's own
	DataMaxMB int64  `env:"RUMI_PACK_DATA_MAX_MB" envDefault:"0"`  // MiB of a pack's /data; 0 is off
	DataKept  int    `env:"RUMI_PACK_DATA_BACKUPS" envDefault:"5"` // folders of a pack's /data that uninstalls put aside

	MountRoots []string      `env:"RUMI_CAPABILITY_MOUNT_ROOTS"`                 // folders beside user_data/shared in which handlers may see some, separated by commas
	MaxTimeout time.Duration `env:"RUMI_CAPABILITY_MAX_TIMEOUT" envDefault:"2m"` // of a handler's call

	Ceiling ceiling
	Workers workerLimits
}

// Values of RUMI_SECURITY_MODE.
const (
	strict     = "strict"     // packs and handlers run in containers or not at all
	permissive = "permissive" // they run as processes, without Docker
)

// UsesDocker is asked by service when it drops root: only a process that uses Docker joins the group of Docker's socket. In permissive mode the
// broker starts packs that nothing confines, and they must not inherit that group: it is as good as root.
func (c config) UsesDocker() bool { return c.SecurityMode != permissive }

// ceiling bounds every container, whatever a pack's descriptor or a grant asks for.
type ceiling struct {
	MemoryMB int64   `env:"RUMI_CONTAINER_MAX_MEMORY_MB" envDefault:"512"`
	CPUs     float64 `env:"RUMI_CONTAINER_MAX_CPUS" envDefault:"1"`
	PIDs     int64   `env:"RUMI_CONTAINER_MAX_PIDS" envDefault:"128"`
}

func (c ceiling) limits() sandbox.Limits {
	return sandbox.Limits{Memory: c.MemoryMB << 20, CPUs: c.CPUs, PIDs: c.PIDs}
}

// workerLimits bound the pool of handlers' containers.
type workerLimits struct {
	PerHandler int           `env:"RUMI_CAPABILITY_WORKERS_PER_HANDLER" envDefault:"2"` // of one handler for one principal
	Total      int           `env:"RUMI_CAPABILITY_WORKERS" envDefault:"32"`
	Queue      int           `env:"RUMI_CAPABILITY_QUEUE" envDefault:"64"` // calls of one principal that may wait for one handler
	Idle       time.Duration `env:"RUMI_CAPABILITY_WORKER_IDLE" envDefault:"5m"`
}

// callCeiling bounds every call of a handler.
func (c config) callCeiling() worker.Ceiling {
	return worker.Ceiling{Limits: c.Ceiling.limits(), Timeout: c.MaxTimeout}
}

func (c config) check() error {
	switch c.SocketMode {
	case "0600", "0660", "0666":
	default:
		return fmt.Errorf("RUMI_CAPABILITY_SOCKET_MODE: %q: want 0660, 0666 or 0600", c.SocketMode)
	}
	switch w := c.Workers; {
	case c.SecurityMode != strict && c.SecurityMode != permissive:
		return fmt.Errorf("RUMI_SECURITY_MODE: %q: want %s or %s", c.SecurityMode, strict, permissive)
	case c.DataMaxMB < 0:
		return errors.New("RUMI_PACK_DATA_MAX_MB: want MiB, such as 1024 (0 is off)")
	case c.DataKept < 0:
		return errors.New("RUMI_PACK_DATA_BACKUPS: want a number of folders, such as 5")
	case c.Ceiling.limits().Check() != nil:
		return fmt.Errorf("RUMI_CONTAINER_MAX_MEMORY_MB, RUMI_CONTAINER_MAX_CPUS, RUMI_CONTAINER_MAX_PIDS: %w", c.Ceiling.limits().Check())
	case c.StoreMax < 1:
		return errors.New("RUMI_STORE_MAX_BYTES: want bytes, at least 1, such as 67108864")
	case c.Refusals < 0:
		return errors.New("RUMI_AUDIT_REFUSALS: want entries a day, such as 100000 (0 is any number)")
	case c.CallRate < 0:
		return errors.New("RUMI_CAPABILITY_RATE_LIMIT: want calls a minute, such as 600 (0 is off)")
	case c.SecretRate < 0:
		return errors.New("RUMI_SECRET_GET_RATE_LIMIT: want calls a minute, such as 60 (0 is off)")
	case w.PerHandler < 1, w.Total < 1, w.Queue < 1, w.Idle < time.Second:
		return errors.New("RUMI_CAPABILITY_WORKER*, RUMI_CAPABILITY_QUEUE: want a number from 1 on; RUMI_CAPABILITY_WORKER_IDLE: want a time from 1s on, such as 5m")
	case c.MaxTimeout < time.Second, c.MaxTimeout > call.MaxTimeout:
		return fmt.Errorf("RUMI_CAPABILITY_MAX_TIMEOUT: want a time from 1s to %v", call.MaxTimeout)
	}
	return nil
}

// socketMode is SocketMode as a mode; check has made sure that it is one.
func (c config) socketMode() fs.FileMode {
	mode, _ := strconv.ParseUint(c.SocketMode, 8, 32)
	return fs.FileMode(mode)
}

// groups are the groups that a container joins to use its sockets.
func (c config) groups() []int {
	list := []int{c.SocketGID, c.EgressGID}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(gid int) bool { return gid <= 0 })
}
