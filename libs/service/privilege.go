package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// dropPrivileges makes a process that was started as root one of uid and gid. It can't become root again: the kernel drops all capabilities
// with the last uid 0. The process keeps its supplementary groups except root's, and joins the group of the Docker socket if there is one.
// That group differs from host to host, so that a compose file can't name it: this is why services start as root. They need the capabilities
// SETUID and SETGID for it. A process that isn't root stays as it is.
//
// The groups are changed first and the user last: without uid 0 the others would be refused.
func dropPrivileges(uid, gid int, dockerSocket string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if uid == 0 {
		return errors.New("drop privileges: a service doesn't run as root (RUMI_UID)")
	}
	groups, err := os.Getgroups()
	if err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	groups = slices.DeleteFunc(groups, func(g int) bool { return g == 0 })
	var socket syscall.Stat_t
	switch err := syscall.Stat(dockerSocket, &socket); {
	case err == nil:
		groups = append(groups, int(socket.Gid))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("drop privileges: find the group of %s: %w", dockerSocket, err)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("drop privileges: set groups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("drop privileges: set gid: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("drop privileges: set uid: %w", err)
	}
	return nil
}
