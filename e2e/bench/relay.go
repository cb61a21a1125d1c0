package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/e2e/bench/internal/baseline"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
)

// serve listens at an address, calls handle for each connection and closes the connection afterwards.
func serve(address string, handle func(net.Conn)) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return l, nil
}

// relayCommand is a plain TCP relay in a process of its own, as the services are. It copies with splice(2), the fastest way that Linux has.
// Tunnels and uploads are compared with it.
type relayCommand struct {
	Listen string `arg:""`
	Target string `arg:""`
}

func (c *relayCommand) Run(ctx context.Context) error {
	return serveUntilDone(ctx, c.Listen, func(conn net.Conn) {
		to, err := net.Dial("tcp", c.Target)
		if err != nil {
			return
		}
		defer to.Close()
		go func() {
			_, _ = io.Copy(to, conn) // ends with conn
			_ = to.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(conn, to)
	})
}

// keepCommand does the least that an upload must do, in a process of its own: it writes the bytes of a connection to a new file, syncs it, and
// answers the file's name. If that fails, it closes the connection without an answer.
type keepCommand struct {
	Listen string `arg:""`
	Folder string `arg:""`
}

func (c *keepCommand) Run(ctx context.Context) error {
	return serveUntilDone(ctx, c.Listen, func(conn net.Conn) {
		if file, err := keep(conn, c.Folder); err == nil {
			_, _ = io.WriteString(conn, file)
		}
	})
}

// keep writes the bytes of a connection to a new file in folder, synced.
func keep(conn net.Conn, folder string) (file string, err error) {
	f, err := os.CreateTemp(folder, "")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Reads and writes of 1 MiB are faster than splice into a file. The struct types hide ReadFrom and WriteTo, which would use splice.
	if _, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{conn}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// serveUntilDone serves until ctx ends.
func serveUntilDone(ctx context.Context, address string, handle func(net.Conn)) error {
	l, err := serve(address, handle)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return l.Close()
}

// startSelf runs a hidden command of this program (relay or keep) in a process of its own, at a free port. argument is the command's second
// one: a target or a folder.
func (b *bench) startSelf(ctx context.Context, command, argument string) (*baseline.Tool, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := b.suite.Dir(command)
	if err != nil {
		return nil, err
	}
	address, err := suite.FreePort()
	if err != nil {
		return nil, err
	}
	return baseline.Await(ctx, address, suite.Command{Name: command, Path: self, Args: []string{command, address, argument}, Log: filepath.Join(dir, "output")})
}
