package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/e2e/internal/engine"
)

// packMounts are the mounts that a pack's container may have, by their path in it, and whether each may be writable.
var packMounts = map[string]bool{
	"/pack":                false,
	"/data":                true,
	"/site-packages":       false,
	"/run/rumi/egress":     false,
	"/run/rumi/capability": false,
}

// violations compares a pack's container with the confinement that contract.md and design.md promise. It returns a text for each
// difference that would give a hostile pack more than they allow; none if the container is confined.
func violations(c engine.Container) []string {
	var found []string
	must := func(ok bool, format string, args ...any) {
		if !ok {
			found = append(found, fmt.Sprintf(format, args...))
		}
	}
	h := c.HostConfig
	must(h.NetworkMode == "none", "network is %q", h.NetworkMode)
	must(!h.Privileged, "it is privileged")
	must(h.ReadonlyRootfs, "its root can be written")
	must(c.Config.User == "65534:65534", "it runs as %q", c.Config.User)
	must(len(h.CapAdd) == 0, "capabilities added: %v", h.CapAdd)
	must(slices.Equal(h.CapDrop, []string{"ALL"}), "capabilities dropped: only %v", h.CapDrop)
	must(slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "no-new-privileges") }),
		"no-new-privileges is not among %v", h.SecurityOpt)
	must(!slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.Contains(o, "unconfined") }),
		"unconfined by %v", h.SecurityOpt)
	must(h.PidsLimit > 0 && h.PidsLimit <= 128, "pids limit is %d", h.PidsLimit)
	must(h.Memory > 0 && h.Memory <= 512<<20, "memory limit is %d", h.Memory)
	must(h.MemorySwap == h.Memory, "memory and swap together are %d", h.MemorySwap)
	must(h.NanoCpus > 0 || h.CPUQuota > 0, "no limit on CPU")
	must(h.PidMode == "" && h.UTSMode == "" && (h.IpcMode == "private" || h.IpcMode == "none"),
		"it shares namespaces: pid %q, uts %q, ipc %q", h.PidMode, h.UTSMode, h.IpcMode)
	must(len(h.Devices) == 0, "devices: %v", h.Devices)
	must(h.RestartPolicy.Name == "" || h.RestartPolicy.Name == "no", "restart policy is %q", h.RestartPolicy.Name)
	for _, m := range c.Mounts {
		writable, known := packMounts[m.Destination]
		must(known, "%s is mounted at %s", m.Source, m.Destination)
		must(writable || !m.RW || strings.HasPrefix(m.Destination, "/run/rumi/"), "%s can be written", m.Destination)
		must(path.Base(m.Source) != "docker.sock", "it holds the Docker socket")
		must(!strings.Contains(m.Source, "/ecosystem/"), "%s is mounted, not the approved copy", m.Source)
	}
	return found
}
