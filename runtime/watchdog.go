package main

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// The watchdog ends a pack whose capability socket no broker serves. Then the broker that would stop the pack when its gate closes doesn't run any more:
// by `docker compose down`, or by a crash after which it doesn't start again. A pack must not run on for ever unobserved. A
// minute is long: a broker that restarts, or a replica that takes the socket over, is back after seconds.
const (
	pollInterval = 15 * time.Second
	maxFailures  = 4               // in a row, so a minute. Counted, not timed: a container that was paused for an hour has not lost its broker
	termGrace    = 5 * time.Second // between SIGTERM and the end of the container
)

// abandoned gives a channel that is closed when failures attempts in a row to connect to the socket have failed. Without a socket it is
// never closed.
func abandoned(socket string, every time.Duration, failures int) <-chan struct{} {
	ended := make(chan struct{})
	if socket == "" {
		return ended
	}
	go func() {
		defer close(ended)
		for failed := 0; failed < failures; {
			time.Sleep(every)
			if listening(socket) {
				failed = 0
			} else {
				failed++
			}
		}
	}()
	return ended
}

// listening says whether a process listens on a socket. Errors other than "refused" and "no such file" count as listening: a server
// that is too busy to accept must not cost a pack its life.
func listening(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}
