package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// dropPrivileges turns a process that was started as root into uid:gid for good, keeping its supplementary groups and
// joining the group of the Docker socket where there is one. Which group that is differs from host to host, so no
// compose file can name it; this needs the capabilities SETUID and SETGID, which are gone afterwards.
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
