package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/e2e/internal/engine"
)

// hardened is a container without violations.
func hardened() engine.Container {
	var c engine.Container
	c.Config.User = "65534:65534"
	c.HostConfig.NetworkMode = "none"
	c.HostConfig.ReadonlyRootfs = true
	c.HostConfig.CapDrop = []string{"ALL"}
	c.HostConfig.SecurityOpt = []string{"no-new-privileges"}
	c.HostConfig.PidsLimit = 128
	c.HostConfig.Memory, c.HostConfig.MemorySwap = 512<<20, 512<<20
	c.HostConfig.NanoCpus = 1e9
	c.HostConfig.IpcMode = "private"
	c.Mounts = []engine.Mount{
		{Source: "/home/o/rumi/user_data/capabilities/trees/1", Destination: "/pack"},
		{Source: "/home/o/rumi/user_data/packs/p", Destination: "/data", RW: true},
		{Source: "/run/rumi/egress/packs/1", Destination: "/run/rumi/egress", RW: true},
	}
	return c
}

func TestViolations(t *testing.T) {
	if found := violations(hardened()); len(found) > 0 {
		t.Errorf("a hardened container has the violations %v, want none", found)
	}
	for want, loosen := range map[string]func(*engine.Container){
		"network":           func(c *engine.Container) { c.HostConfig.NetworkMode = "bridge" },
		"privileged":        func(c *engine.Container) { c.HostConfig.Privileged = true },
		"its root":          func(c *engine.Container) { c.HostConfig.ReadonlyRootfs = false },
		"runs as":           func(c *engine.Container) { c.Config.User = "" },
		"added":             func(c *engine.Container) { c.HostConfig.CapAdd = []string{"NET_ADMIN"} },
		"dropped":           func(c *engine.Container) { c.HostConfig.CapDrop = nil },
		"no-new-privileges": func(c *engine.Container) { c.HostConfig.SecurityOpt = nil },
		"unconfined": func(c *engine.Container) {
			c.HostConfig.SecurityOpt = append(c.HostConfig.SecurityOpt, "seccomp=unconfined")
		},
		"pids":            func(c *engine.Container) { c.HostConfig.PidsLimit = 0 },
		"memory limit":    func(c *engine.Container) { c.HostConfig.Memory = 0 },
		"memory and swap": func(c *engine.Container) { c.HostConfig.MemorySwap = -1 },
		"CPU":             func(c *engine.Container) { c.HostConfig.NanoCpus = 0 },
		"namespaces":      func(c *engine.Container) { c.HostConfig.PidMode = "host" },
		"devices":         func(c *engine.Container) { c.HostConfig.Devices = []any{"/dev/kvm"} },
		"restart policy":  func(c *engine.Container) { c.HostConfig.RestartPolicy.Name = "always" },
		"is mounted at /host": func(c *engine.Container) {
			c.Mounts = append(c.Mounts, engine.Mount{Source: "/", Destination: "/host"})
		},
		"/pack can be written": func(c *engine.Container) { c.Mounts[0].RW = true },
		"Docker socket": func(c *engine.Container) {
			c.Mounts = append(c.Mounts, engine.Mount{Source: "/run/docker.sock", Destination: "/data"})
		},
		"not the approved copy": func(c *engine.Container) { c.Mounts[0].Source = "/home/o/rumi/ecosystem/p" },
	} {
		c := hardened()
		loosen(&c)
		found := violations(c)
		if !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, want) }) {
			t.Errorf("found %v, want a violation that says %q", found, want)
		}
	}
}
