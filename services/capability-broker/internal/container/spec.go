package container

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/packdata"
)

const (
	socketWait         = 3 * time.Second       // for the sockets of a pack that was approved a moment ago
	socketPollInterval = 50 * time.Millisecond // of waitForSocket
)

// Where a pack's container has what is mounted.
const (
	codeTarget        = "/pack"
	dataTarget        = "/data"
	packagesTarget    = "/site-packages"
	egressTarget      = "/run/rumi/egress"
	capabilityTarget  = "/run/rumi/capability"
	authoritiesTarget = "/run/rumi/egress-ca.pem"
)

// buildSpec says what a pack's container is: its code, its data, its packages, its two sockets and nothing else. The restart
// policy, the limits and the warnings that come of the pack's descriptor go into the record.
func (m *Manager) buildSpec(ctx context.Context, r *Record) (sandbox.Spec, error) {
	code, err := m.Trees.Get(ctx, r.Digest) // verified against the digest that the gate names
	if err != nil {
		return sandbox.Spec{}, err
	}
	d, err := descriptor(code)
	if err != nil {
		return sandbox.Spec{}, err
	}
	ceiling := m.Policy.Current()
	if err := ceiling.Container(r.Role, d.Resources.MemoryMB<<20).Err(); err != nil {
		return sandbox.Spec{}, err
	}
	limits, cut := sandbox.Limits{Memory: d.Resources.MemoryMB << 20, CPUs: d.Resources.CPUs, PIDs: d.Resources.PIDs}.Within(m.most(ceiling, r.Role))
	r.Restart, r.Warnings = d.Restart, cut
	r.Limits = pack.Resources{MemoryMB: limits.Memory >> 20, CPUs: limits.CPUs, PIDs: limits.PIDs}
	for _, text := range cut {
		m.Log.WarnContext(ctx, "a pack gets less than it asks for", "pack_id", r.PackID, "warning", text)
	}
	data, err := packdata.Prepare(m.DataDir, r.PackID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	if err := m.checkDataLimit(ctx, data); err != nil {
		return sandbox.Spec{}, err
	}
	egress, capability, err := m.sockets(ctx, r.PackID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	mounts := []sandbox.Mount{
		{Source: code, Target: codeTarget},
		{Source: data, Target: dataTarget, Writable: true},
		{Source: egress, Target: egressTarget},
		{Source: capability, Target: capabilityTarget},
	}
	packages, err := m.Environments.For(ctx, r.PackID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	if packages.Dir != "" {
		mounts = append(mounts, sandbox.Mount{Source: packages.Dir, Target: packagesTarget})
	}
	if text := lockWarning(code, r.PackID, packages.Lock); text != "" {
		r.Warnings = append(r.Warnings, text)
		m.Log.WarnContext(ctx, "a pack starts without the packages that it lists", "pack_id", r.PackID, "warning", text)
	}
	variables := map[string]string{
		"RUMI_PACK_ID":           r.PackID,
		"RUMI_EGRESS_SOCKET":     egressTarget + "/" + uds.SocketName,
		"RUMI_CAPABILITY_SOCKET": capabilityTarget + "/" + uds.SocketName,
		"PYTHONUNBUFFERED":       "1",
	}
	if handed := m.Border.Mint(ctx, r.PackID); handed != (packtrace.Context{}) { // as OpenTelemetry's specification of environment variables has it
		variables["TRACEPARENT"], variables["TRACESTATE"] = handed.TraceParent, handed.TraceState
	}
	if m.Authorities != nil {
		mounts = append(mounts, sandbox.Mount{Source: m.Authorities(), Target: authoritiesTarget})
		variables["RUMI_EGRESS_CA_FILE"] = authoritiesTarget // PID 1 sets the variables that tools know from this one
	}
	return sandbox.Spec{
		Kind: sandbox.Pack, Name: r.PackID, PackID: r.PackID, Principal: r.PackID, Digest: r.Digest, Packages: packages.Digest, Image: m.Image,
		Command: command(d), Dir: codeTarget, Mounts: mounts, Groups: m.Groups, Stdin: true, Env: variables, Limits: limits,
	}, nil
}

// most is the ceiling of a container that someone of the role starts: the settings', or the policy's where that is lower.
func (m *Manager) most(p *policy.Policy, role access.Role) sandbox.Limits {
	most := m.Ceiling
	if memory := p.MaxMemory(role); memory > 0 {
		most.Memory = min(memory, cmp.Or(most.Memory, sandbox.DefaultLimits.Memory))
	}
	return most
}

// sockets returns the folders of a pack's two sockets, once the sockets are there. Folders are mounted, not sockets: a service that
// restarts makes a new socket in the old folder, which the container then sees.
//
// Two Rumi homes may be given the same folder of sockets by mistake. A pack of the other home may have the same id there, and a
// container that had its socket would act as that pack: so the folder's owner is checked last, just before it is mounted.
func (m *Manager) sockets(ctx context.Context, packID string) (egress, capability string, err error) {
	egress = filepath.Join(m.EgressDir, uds.DirName(packID))
	capability = filepath.Join(m.CapabilityDir, uds.DirName(packID))
	for _, s := range []struct{ dir, owner string }{{capability, "capability-broker"}, {egress, "egress-proxy"}} {
		if err := waitForSocket(ctx, s.dir); err != nil {
			return "", "", fault.Unavailable("Service unavailable: %s has made no socket for the pack yet", s.owner).With("service_unavailable").Because(err)
		}
	}
	if err := m.SocketsOwned(); err != nil {
		return "", "", fault.Unavailable("Service unavailable: the folder of the sockets is not this Rumi home's").With("service_unavailable").Because(err)
	}
	return egress, capability, nil
}

// descriptor reads a pack's ecosystem.json from its copy. A descriptor that nothing can be started with is a fault: conflict.
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

// command is the command of PID 1: it runs the pack's entrypoint, or waits for calls if there is none.
func command(d pack.Descriptor) []string {
	switch {
	case d.Entrypoint.IsZero():
		return []string{"rumi-runtime", "serve"}
	case d.Entrypoint.File != "":
		return []string{"rumi-runtime", "run", "--", d.Entrypoint.File}
	}
	return append([]string{"rumi-runtime", "run", "--"}, d.Entrypoint.Argv...)
}

// waitForSocket waits, for socketWait at most, until the socket in a pack's folder exists: a pack that was approved a moment ago gets
// its sockets a little later.
func waitForSocket(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	for {
		_, err := os.Lstat(filepath.Join(dir, uds.SocketName))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(socketPollInterval):
		}
	}
}
