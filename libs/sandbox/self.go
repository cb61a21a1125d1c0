package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// self is what the engine knows of the container that this process runs in.
type self struct {
	inContainer bool
	instance    string
	mounts      []ownMount
}

// ownMount is a mount of this container whose source is on the host.
type ownMount struct {
	target   string // in this container
	source   string // on the engine's host
	writable bool
}

// findSelf asks the engine about the container that this process runs in, once.
func (e *Engine) findSelf(ctx context.Context) (*self, error) {
	if err := e.negotiate(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.self != nil {
		return e.self, nil
	}
	id, err := ownContainer(e.proc)
	if err != nil {
		return nil, err
	}
	found := &self{instance: "local"}
	if id != "" {
		ctx, cancel := bounded(ctx, answerWait)
		defer cancel()
		raw, err := e.api.ContainerInspect(ctx, id)
		if cerrdefs.IsNotFound(err) {
			return nil, fmt.Errorf("find own container: the engine doesn't know %.12s, which this process runs in; give it the socket of its own engine", id)
		}
		if err != nil {
			return nil, clientError(ctx, "find own container", err)
		}
		found = selfFrom(raw)
	}
	e.self = found
	return found, nil
}

func selfFrom(raw container.InspectResponse) *self {
	found := &self{inContainer: true, instance: "local"}
	if project := raw.Config.Labels["com.docker.compose.project"]; validInstance.MatchString(project) {
		found.instance = project
	} else if stack := raw.Config.Labels["com.docker.stack.namespace"]; validInstance.MatchString(stack) {
		found.instance = stack
	}
	for _, m := range raw.Mounts {
		if m.Source == "" || (m.Type != mount.TypeBind && m.Type != mount.TypeVolume) {
			continue // in memory: the host has no path to it
		}
		found.mounts = append(found.mounts, ownMount{target: path.Clean(m.Destination), source: path.Clean(m.Source), writable: m.RW})
	}
	return found
}

var (
	// Docker binds files of /var/lib/docker/containers/<id>/ over these three; the root field of mountinfo is relative to the
	// file system they lie on, so only its end is known.
	boundFile = regexp.MustCompile(`/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)$`)
	// cgroup v1, and v2 without a cgroup namespace: /docker/<id> (cgroupfs) or /system.slice/docker-<id>.scope (systemd).
	ownCgroup = regexp.MustCompile(`/(?:docker-)?([0-9a-f]{64})(?:\.scope)?$`)
)

// ownContainer gives the id of the Docker container that this process runs in, "" outside one, from procfs.
func ownContainer(proc string) (string, error) {
	mounts, err := os.Open(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return "", fmt.Errorf("find own container: %w", err)
	}
	defer mounts.Close()
	return containerID(mounts)
}

// containerID finds this container's id in mountinfo; proc(5): "36 35 98:0 /root /mount/point options… - type source options". Only the
// mount points that are looked at matter: on a host, mountinfo has the mounts of all its containers, at other mount points.
func containerID(mountinfo io.Reader) (string, error) {
	var byCgroup string
	text := bufio.NewScanner(mountinfo)
	text.Buffer(nil, 1<<20) // an overlay of many layers makes long lines
	for text.Scan() {
		fields := strings.Fields(text.Text())
		if len(fields) < 6 {
			continue
		}
		root, point := fields[3], fields[4]
		switch {
		case point == "/etc/hostname", point == "/etc/hosts", point == "/etc/resolv.conf":
			if m := boundFile.FindStringSubmatch(root); m != nil {
				return m[1], nil
			}
		case byCgroup == "" && strings.HasPrefix(point, "/sys/fs/cgroup"):
			if m := ownCgroup.FindStringSubmatch(root); m != nil {
				byCgroup = m[1]
			}
		}
	}
	if err := text.Err(); err != nil {
		return "", fmt.Errorf("find own container: read mountinfo: %w", err)
	}
	return byCgroup, nil
}

// hostPath returns where the host has name (absolute, clean), and the mount of this container that name lies in.
func (s *self) hostPath(name string) (string, ownMount, error) {
	if !s.inContainer {
		return name, ownMount{target: "/", source: "/", writable: true}, nil
	}
	best := ownMount{}
	for _, m := range s.mounts {
		if len(m.target) > len(best.target) && (name == m.target || strings.HasPrefix(name, strings.TrimSuffix(m.target, "/")+"/")) {
			best = m
		}
	}
	if best.target == "" {
		return "", ownMount{}, fmt.Errorf("find host path: %s lies in no mount of this container that its host has", name)
	}
	return path.Join(best.source, strings.TrimPrefix(name, best.target)), best, nil
}

// binds turns the caller's mounts into Docker's. The source must be a folder or a regular file: no Docker socket, no device. No link may
// lie on the way to it below the mount that it is in: the engine follows links on the host, where they may lead elsewhere, for
// example from a pack's data to /etc.
//
// This is a check before a use: the engine resolves the path again. The caller must know that nobody untrusted may write to the
// folders on the way in between, or compare afterwards what was mounted (as the broker's workers do).
func (s *self) binds(mounts []Mount) ([]mount.Mount, error) {
	binds := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		source, own, err := s.hostPath(m.Source)
		if err != nil {
			return nil, err
		}
		if m.Writable && !own.writable {
			return nil, fmt.Errorf("mount %s: this container may not write there itself", m.Source)
		}
		if err := checkSource(m.Source, own.target); err != nil {
			return nil, err
		}
		if !s.inContainer { // links above, in the host's own layout, are the operator's
			if source, err = filepath.EvalSymlinks(m.Source); err != nil {
				return nil, fmt.Errorf("mount %s: %w", m.Source, err)
			}
		}
		binds = append(binds, mount.Mount{
			Type: mount.TypeBind, Source: source, Target: m.Target, ReadOnly: !m.Writable,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate, NonRecursive: true},
		})
	}
	return binds, nil
}

// checkSource refuses a source that binds must not mount. root is the target of the mount of this container that the source lies in.
func checkSource(source, root string) error {
	info, err := os.Lstat(source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	if source == "/" || !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("mount %s: neither a folder nor a regular file (%s)", source, info.Mode().Type())
	}
	if root == "/" {
		return nil
	}
	resolved, err := filepath.EvalSymlinks(source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	resolvedRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	if resolved != path.Join(resolvedRoot, strings.TrimPrefix(source, root)) {
		return fmt.Errorf("mount %s: a link on the way leads elsewhere", source)
	}
	return nil
}
