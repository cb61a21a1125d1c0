package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/uds"
)

// authoritiesTarget is where a pack's container has its bundle of certificate authorities.
const authoritiesTarget = "/run/rumi/egress-ca.pem"

// buildSpec says what a pack's container is: its code, its data, its two sockets and nothing else. What the pack says of itself
// goes into the record.
func (m *Manager) buildSpec(ctx context.Context, r *Record) (sandbox.Spec, error) {
	code, err := m.Trees.Get(ctx, r.Digest)
	if err != nil {
		return sandbox.Spec{}, err
	}
	d, err := descriptor(code)
	if err != nil {
		return sandbox.Spec{}, err
	}
	limits, cut := sandbox.Limits{Memory: d.Resources.MemoryMB << 20, CPUs: d.Resources.CPUs, PIDs: d.Resources.PIDs}.Within(m.Ceiling)
	r.Restart, r.Warnings = d.Restart, cut
	r.Limits = pack.Resources{MemoryMB: limits.Memory >> 20, CPUs: limits.CPUs, PIDs: limits.PIDs}
	for _, text := range cut {
		m.Log.WarnContext(ctx, "a pack gets less than it asks for", "pack_id", r.PackID, "warning", text)
	}
	data, err := prepareData(m.DataDir, r.PackID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	if err := m.checkDataLimit(ctx, data); err != nil {
		return sandbox.Spec{}, err
	}
	egress := filepath.Join(m.EgressDir, uds.DirName(r.PackID))
	capability := filepath.Join(m.CapabilityDir, uds.DirName(r.PackID))
	for _, wait := range []struct{ dir, owner string }{{capability, "capability-broker"}, {egress, "egress-proxy"}} {
		if err := waitForSocket(ctx, wait.dir); err != nil {
			return sandbox.Spec{}, fault.Unavailable("Service unavailable: %s has made no socket for the pack yet", wait.owner).With("service_unavailable").Because(err)
		}
	}
	if err := m.SocketsOwned(); err != nil { // sockets of another home's pack of the same id may lie there
		return sandbox.Spec{}, fault.Unavailable("Service unavailable: the folder of the sockets is not this Rumi home's").With("service_unavailable").Because(err)
	}
	mounts := []sandbox.Mount{
		{Source: code, Target: "/pack"},
		{Source: data, Target: "/data", Writable: true},
		{Source: egress, Target: "/run/rumi/egress"},
		{Source: capability, Target: "/run/rumi/capability"},
	}
	packages, err := m.Environments.For(ctx, r.PackID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	if packages.Dir != "" {
		mounts = append(mounts, sandbox.Mount{Source: packages.Dir, Target: "/site-packages"})
	}
	if text := lockWarning(code, r.PackID, packages.Lock); text != "" {
		r.Warnings = append(r.Warnings, text)
		m.Log.WarnContext(ctx, "a pack starts without the packages that it lists", "pack_id", r.PackID, "warning", text)
	}
	variables := map[string]string{
		"RUMI_PACK_ID":           r.PackID,
		"RUMI_EGRESS_SOCKET":     "/run/rumi/egress/" + uds.SocketName,
		"RUMI_CAPABILITY_SOCKET": "/run/rumi/capability/" + uds.SocketName,
		"PYTHONUNBUFFERED":       "1",
	}
	if m.Authorities != nil {
		mounts = append(mounts, sandbox.Mount{Source: m.Authorities(), Target: authoritiesTarget})
		variables["RUMI_EGRESS_CA_FILE"] = authoritiesTarget // PID 1 tells the program, in the names that tools know
	}
	return sandbox.Spec{
		Kind: sandbox.Pack, Name: r.PackID, PackID: r.PackID, Principal: r.PackID, Digest: r.Digest, Packages: packages.Digest, Image: m.Image,
		Command: command(d), Dir: "/pack", Mounts: mounts, Groups: m.Groups, Stdin: true, Env: variables, Limits: limits,
	}, nil
}

func descriptor(code string) (pack.Descriptor, error) {
	root, err := os.OpenRoot(code)
	if err != nil {
		return pack.Descriptor{}, fmt.Errorf("open pack: %w", err)
	}
	defer root.Close()
	d, err := pack.ReadDescriptor(root)
	if err != nil {
		return d, fault.Conflict("Pack can't be started: %v", err).With("pack_not_startable")
	}
	return d, nil
}

// command is what PID 1 is told: to run the pack's entrypoint, or to wait for calls where it has none.
func command(d pack.Descriptor) []string {
	switch {
	case d.Entrypoint.IsZero():
		return []string{"rumi-runtime", "serve"}
	case d.Entrypoint.File != "":
		return []string{"rumi-runtime", "run", "--", d.Entrypoint.File}
	}
	return append([]string{"rumi-runtime", "run", "--"}, d.Entrypoint.Argv...)
}

// waitForSocket waits for a folder's socket to be there.
func waitForSocket(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, socketsWait)
	defer cancel()
	for {
		_, err := os.Lstat(filepath.Join(dir, uds.SocketName))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(socketsPoll):
		}
	}
}
