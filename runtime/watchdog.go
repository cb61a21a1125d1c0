package main

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// A pack whose capability socket nobody serves any more is one whose gate nobody watches: the broker is gone, by
// `docker compose down` or by a crash that nothing mends. It must not run on for ever. A broker that restarts, or another
// replica that takes the socket over, is there again long before.
const (
	pollInterval = 15 * time.Second
	maxFailures  = 4               // in a row, a minute; counted, since the time a container was paused is no absence
	termGrace    = 5 * time.Second // between SIGTERM and the end of the container
)

// abandoned is closed when nobody has served the socket for so many looks in a row; never without a socket.
func abandoned(socket string, every time.Duration, looks int) <-chan struct{} {
	ended := make(chan struct{})
	if socket == "" {
		return ended
	}
	go func() {
		defer close(ended)
		for vain := 0; vain < looks; {
			time.Sleep(every)
			if listening(socket) {
				vain = 0
			} else {
				vain++
			}
		}
	}()
	return ended
}

// listening says whether somebody listens on a socket. A server that is only too busy to take the connection does.
func listening(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}
