package watch

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// localFilesystems are the file systems whose every change goes through this kernel, and so raises an event. On a file system
// that others write to as well (network, FUSE), or that lies under another (overlay), the absence of events means nothing.
var localFilesystems = []int64{
	unix.EXT4_SUPER_MAGIC, // ext2 and ext3 have the same
	unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
	0x2fc12fc1, // ZFS (include/sys/fs/zfs.h)
	0xca451a4e, // bcachefs (fs/bcachefs/bcachefs_format.h)
}

// onLocalFilesystem says whether an open file lies on one of them.
func onLocalFilesystem(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains(localFilesystems, int64(st.Type))
}

const mountTable = "/proc/self/mountinfo"

// mounts notices what is mounted or unmounted in the ecosystem folder: that replaces what lies there, and inotify says nothing
// about it.
type mounts struct {
	root       string // the ecosystem folder, without links
	table      *os.File
	mountLines string // the lines of the table that concern root, when it was last read
}

func openMounts(root string) (*mounts, error) {
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, err
	}
	// Not os.Open, because Go's poller would then wait for the file, too: the kernel reports each change once, to the first that polls, and
	// that would be the poller instead of changed below.
	table, err := unix.Open(mountTable, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: mountTable, Err: err}
	}
	m := &mounts{root: resolved, table: os.NewFile(uintptr(table), mountTable)}
	_, err = m.changed()
	return m, err
}

func (m *mounts) close() error { return m.table.Close() }

// changed says whether anything was mounted or unmounted in the ecosystem folder since the last call. It costs one system call
// where nothing was mounted anywhere.
func (m *mounts) changed() (bool, error) {
	// "This file is pollable: it is marked as having a POLLERR and POLLPRI event" when the table has changed since it was
	// last polled (proc_pid_mounts(5), on which proc_pid_mountinfo(5) stands).
	poll := []unix.PollFd{{Fd: int32(m.table.Fd()), Events: unix.POLLPRI}}
	n, err := unix.Poll(poll, 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, os.NewSyscallError("poll", err)
	}
	if n == 0 && err == nil && m.mountLines != "" {
		return false, nil
	}
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return false, err
	}
	before := m.mountLines
	m.mountLines = mountLines(table, m.root)
	return before != m.mountLines, nil
}

// mountLines are the lines of a mount table that are about the folder root and what lies in it. The result is never "", which
// means "not read yet".
func mountLines(table []byte, root string) string {
	lines := "mounted:\n"
	for line := range bytes.Lines(table) {
		// The fifth field is the mount point (proc_pid_mountinfo(5)), with octal escapes for white space and backslash.
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		if point := unescape.Replace(fields[4]); point == root || strings.HasPrefix(point, root+"/") {
			lines += string(line)
		}
	}
	return lines
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
