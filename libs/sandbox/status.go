package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
)

// Status is the engine's description of itself, with our warnings about it.
type Status struct {
	Available  bool
	Version    string // of the engine
	APIVersion string // spoken with it
	OS, Arch   string
	Error      string // why it isn't available

	Components     map[string]string // versions by name: Engine, containerd, runc, …
	Kernel         string
	Runtimes       []string // that it knows by name
	DefaultRuntime string
	Runtime        string // that our containers run in
	StorageDriver  string
	CgroupVersion  string // "1" or "2"
	CgroupDriver   string
	Seccomp        bool
	AppArmor       bool
	SELinux        bool
	UserNamespaces bool // root in a container is nobody on the host
	Rootless       bool // the engine itself isn't root
	LiveRestore    bool // containers outlive the engine's restart
	Warnings       []Warning
}

// statusWait is how long an engine may take to say who it is.
const statusWait = 5 * time.Second

// Status asks the engine who it is, for 5 s at most.
func (e *Engine) Status(ctx context.Context) Status {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	if err := e.negotiate(ctx); err != nil {
		return Status{Error: errors.Unwrap(err).Error()}
	}
	v, err := e.api.ServerVersion(ctx)
	if err != nil {
		return Status{Error: err.Error()}
	}
	info, err := e.api.Info(ctx)
	if err != nil {
		return Status{Error: err.Error()}
	}
	s := statusOf(v, info, e.runtime)
	s.APIVersion = e.api.ClientVersion()
	if e.socket != "" {
		if file, err := os.Stat(e.socket); err == nil && file.Mode()&0o002 != 0 {
			s.Warnings = append(s.Warnings, Warning{Code: "socket_world_writable",
				Message: fmt.Sprintf("everybody on the host may write to the engine's socket %s (mode %o), which makes root of them", e.socket, file.Mode().Perm())})
		}
	}
	return s
}

// statusOf reads the engine's answers.
func statusOf(v types.Version, info system.Info, runtime string) Status {
	s := Status{
		Available: true, Version: v.Version, OS: v.Os, Arch: v.Arch, Components: make(map[string]string), Kernel: v.KernelVersion,
		Runtimes: slices.Sorted(maps.Keys(info.Runtimes)), DefaultRuntime: info.DefaultRuntime, Runtime: info.DefaultRuntime,
		StorageDriver: info.Driver, CgroupVersion: info.CgroupVersion, CgroupDriver: info.CgroupDriver, LiveRestore: info.LiveRestoreEnabled,
	}
	if runtime != "" {
		s.Runtime = runtime
	}
	warn := func(bad bool, code, message string) {
		if bad {
			s.Warnings = append(s.Warnings, Warning{Code: code, Message: message})
		}
	}
	for _, c := range v.Components {
		s.Components[c.Name] = c.Version
	}
	if s.Components["Engine"] == "" {
		s.Components["Engine"] = v.Version
	}
	for _, name := range []string{"Engine", "containerd", "runc"} {
		if text := s.Components[name]; text != "" {
			s.Warnings = append(s.Warnings, vulnerabilities(name, text)...)
		}
	}
	s.readSecurityOptions(info.SecurityOptions)
	warn(!s.Seccomp, "no_seccomp", "the engine filters no system calls (no seccomp)")
	warn(!info.MemoryLimit, "no_memory_limit", "the kernel can't limit the memory of containers")
	warn(info.MemoryLimit && !info.SwapLimit, "no_swap_limit", "the kernel can't limit the swap of containers; boot with swapaccount=1")
	warn(!info.PidsLimit, "no_pids_limit", "the kernel can't limit the processes of containers")
	warn(!info.CPUCfsQuota, "no_cpu_limit", "the kernel can't limit the processor time of containers")
	// A runtime may be given by the type of its shim ("io.containerd…") without being configured; then only a start shows whether it exists.
	_, listed := info.Runtimes[runtime]
	warn(runtime != "" && !listed && !strings.Contains(runtime, "."), "runtime_unknown",
		fmt.Sprintf("the engine knows no runtime %q (RUMI_CONTAINER_RUNTIME): no container will start", runtime))
	return s
}

// readSecurityOptions sets what the engine says of its own isolation.
func (s *Status) readSecurityOptions(options []string) {
	for _, option := range options { // "name=seccomp,profile=default"; "seccomp" before API 1.26
		name, _, _ := strings.Cut(strings.TrimPrefix(option, "name="), ",")
		switch name {
		case "seccomp":
			s.Seccomp = true
		case "apparmor":
			s.AppArmor = true
		case "selinux":
			s.SELinux = true
		case "userns":
			s.UserNamespaces = true
		case "rootless":
			s.Rootless = true
		}
	}
}
