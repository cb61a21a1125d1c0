package sandbox

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// What a container may use at most, beside its Limits.
const (
	maxFiles     = 1024     // open files of a process
	tmpSize      = 64 << 20 // bytes of /tmp; they count towards the memory too
	tmpInodes    = 16384
	shmSize      = 16 << 20 // bytes of /dev/shm
	oomScore     = 500      // if the host has no memory left, its kernel kills packs before services
	stopSeconds  = 10
	maxMounts    = 17       // a handler has its code, its pack's packages and up to 15 folders that a grant names
	maxEnvLength = 32 << 10 // bytes of one value
)

// check refuses what Docker would misread, or what a caller can't have meant.
func (s Spec) check() error {
	switch s.Kind {
	case Pack, Handler, Builder:
	default:
		return fmt.Errorf("kind %q is none", s.Kind)
	}
	if !validName.MatchString(s.Name) {
		return fmt.Errorf("name %q is not %s", s.Name, validName)
	}
	if s.Image == "" || len(s.Command) == 0 || s.Command[0] == "" {
		return fmt.Errorf("%s %s has no image or no command", s.Kind, s.Name)
	}
	if s.Dir != "" && !path.IsAbs(s.Dir) {
		return fmt.Errorf("folder %q is not absolute", s.Dir)
	}
	if err := checkEnv(s.Env); err != nil {
		return err
	}
	for _, group := range s.Groups {
		if group <= 0 { // group 0 owns too much of the image
			return fmt.Errorf("group %d can't be joined", group)
		}
	}
	if err := s.Limits.Check(); err != nil {
		return err
	}
	return checkMounts(s.Mounts)
}

func checkEnv(env map[string]string) error {
	for key, value := range env {
		if !validEnv.MatchString(key) || len(value) > maxEnvLength || strings.ContainsRune(value, 0) {
			return fmt.Errorf("environment variable %q can't be set", key)
		}
	}
	return nil
}

func checkMounts(mounts []Mount) error {
	if len(mounts) > maxMounts {
		return fmt.Errorf("%d mounts are more than %d", len(mounts), maxMounts)
	}
	targets := map[string]bool{}
	for _, m := range mounts {
		if err := m.check(); err != nil {
			return err
		}
		if targets[m.Target] {
			return fmt.Errorf("target %s is mounted twice", m.Target)
		}
		targets[m.Target] = true
	}
	return nil
}

// check refuses paths that Docker would clean or resolve itself, and targets that would hide what the image needs to be safe.
func (m Mount) check() error {
	if !path.IsAbs(m.Source) || path.Clean(m.Source) != m.Source {
		return fmt.Errorf("mount source %q is not a clean absolute path", m.Source)
	}
	if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target {
		return fmt.Errorf("mount target %q is not a clean absolute path", m.Target)
	}
	for _, taken := range []string{"/proc", "/sys", "/dev", "/tmp", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64"} {
		if m.Target == "/" || m.Target == taken || strings.HasPrefix(m.Target, taken+"/") {
			return fmt.Errorf("mount target %s is the image's own", m.Target)
		}
	}
	return nil
}

// profile is the only function in which a container's rights are decided. What isn't named here stays Docker's default: its AppArmor
// profile, masked paths, a PID and UTS namespace of its own, no devices, no ports. Package sandboxtest compares what the engine reports with
// this, field by field.
func (e *Engine) profile(s Spec, instance, calls string, binds []mount.Mount, nanoCPUs int64) (*container.Config, *container.HostConfig) {
	network, logs := "none", container.LogConfig{
		Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"},
	}
	switch s.Kind {
	case Handler:
		logs = container.LogConfig{Type: "none"} // the broker reads it all from its pipe
	case Builder:
		network = e.network
	case Pack:
	}
	labels := map[string]string{labelKind: string(s.Kind), labelName: s.Name, labelInstance: instance, labelImage: s.Image, labelSpec: s.Fingerprint()}
	for label, value := range map[string]string{labelPackID: s.PackID, labelPrincipal: s.Principal, labelDigest: s.Digest,
		labelPackages: s.Packages, labelReplica: e.replica, labelHome: e.home} {
		if value != "" {
			labels[label] = value
		}
	}
	env := make([]string, 0, len(s.Env))
	for _, key := range slices.Sorted(maps.Keys(s.Env)) {
		env = append(env, key+"="+s.Env[key])
	}
	groups := make([]string, 0, len(s.Groups))
	for _, group := range s.Groups {
		groups = append(groups, strconv.Itoa(group))
	}
	limits, stop := s.Limits.withDefaults(DefaultLimits), stopSeconds
	cfg := &container.Config{
		Hostname:     string(s.Kind), // not Docker's, which is the container's id
		User:         fmt.Sprintf("%d:%d", UID, GID),
		Entrypoint:   s.Command,
		WorkingDir:   s.Dir,
		Env:          env,
		Labels:       labels,
		OpenStdin:    s.Stdin,
		StdinOnce:    s.Stdin && s.Kind != Pack, // its stdin ends with the process that attached to it, and so it does
		AttachStdin:  s.Stdin,
		AttachStdout: true,
		AttachStderr: true,
		Healthcheck:  &container.HealthConfig{Test: []string{"NONE"}},
		StopSignal:   "SIGTERM",
		StopTimeout:  &stop,
	}
	host := &container.HostConfig{
		NetworkMode:    container.NetworkMode(network),
		Runtime:        e.runtime,
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges:true", "seccomp=" + calls},
		IpcMode:        container.IPCModePrivate,
		CgroupnsMode:   container.CgroupnsModePrivate,
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:      logs,
		GroupAdd:       groups,
		Mounts:         binds,
		Tmpfs:          map[string]string{"/tmp": fmt.Sprintf("rw,noexec,nosuid,nodev,mode=1777,size=%d,nr_inodes=%d", tmpSize, tmpInodes)},
		ShmSize:        shmSize,
		OomScoreAdj:    oomScore,
		Resources: container.Resources{
			Memory:     limits.Memory,
			MemorySwap: limits.Memory,
			NanoCPUs:   nanoCPUs,
			PidsLimit:  &limits.PIDs,
			Ulimits: []*container.Ulimit{
				{Name: "nofile", Soft: maxFiles, Hard: maxFiles},
				{Name: "core", Soft: 0, Hard: 0},
			},
		},
	}
	return cfg, host
}
