package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial is Config.Dial for the real world.
func Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: 30 * time.Second, Control: boundUnsent}
	return dialer.DialContext(ctx, "tcp", to.String())
}

const (
	// unsentMax is how many bytes the kernel takes for a server beyond those that are on their way. Without a bound it takes up to 4 MB for each
	// upload to a server that doesn't read, which no limit on a container counts everywhere (cgroup v1); a pack can have 256 uploads. A
	// connection needs no more than a few segments ahead to be kept busy.
	unsentMax = 256 << 10
	// unackedMax is how long a server may acknowledge nothing of what is sent to it.
	unackedMax = 2 * time.Minute
)

// boundUnsent bounds what a connection holds that its server doesn't take. It is net.Dialer's Control.
func boundUnsent(_, _ string, conn syscall.RawConn) error {
	var err error
	controlErr := conn.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMax),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedMax.Milliseconds())),
		)
	})
	return errors.Join(controlErr, err)
}
