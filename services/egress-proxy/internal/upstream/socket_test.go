package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// A server that doesn't read makes the kernel hold little of what is sent to it.
func TestDialBoundsWhatIsUnsent(t *testing.T) {
	const received = 16 << 10 // the server's buffer, as small as it may be
	small := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var err error
		return errors.Join(conn.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, received)
		}), err)
	}}
	l, err := small.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dial(context.Background(), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	taken, chunk := 0, make([]byte, 64<<10)
	for {
		conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Write(chunk)
		taken += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if taken > 16<<20 {
			t.Fatal("16 MiB were taken for a server that doesn't read")
		}
	}
	if most := unsentMax + 512<<10; taken > most {
		t.Errorf("the kernel took %d bytes for a server that doesn't read, want %d at most", taken, most)
	}
}
