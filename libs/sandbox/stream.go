package sandbox

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// Stream is a container's standard input and output. Read returns what it writes to stdout (io.EOF after its end), Write writes to its
// stdin.
type Stream interface {
	io.ReadWriter
	// CloseWrite ends the container's stdin; its output can still be read.
	CloseWrite() error
	// Close ends the connection and waits until nothing more is written to stderr.
	Close() error
}

// stream is a connection to the engine.
type stream struct {
	conn   types.HijackedResponse
	stdout *io.PipeReader
	done   chan struct{}
	close  sync.Once
}

// Attach connects to a container's stdin and stdout; what it writes to stderr goes to the writer. Attach before Start to
// miss nothing. A container whose stdout or stderr isn't read stands still, so stderr must not block for long, and a
// failing stderr ends the stream. ctx bounds the connecting only; Close the stream. A container that has ended is an error.
func (e *Engine) Attach(ctx context.Context, id string, stderr io.Writer) (Stream, error) {
	c, err := e.Inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	// Docker would wait for its next start, which nobody may ever ask for.
	if !c.Running() && c.Status != "created" {
		return nil, fmt.Errorf("attach to container %.12s: it has ended (%s)", id, c.Status)
	}
	conn, err := e.api.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, clientError(ctx, "attach to container", err)
	}
	stdout, feed := io.Pipe()
	s := &stream{conn: conn, stdout: stdout, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_, err := stdcopy.StdCopy(feed, stderr, conn.Reader)
		if err != nil {
			err = fmt.Errorf("read container's output: %w", err)
		}
		feed.CloseWithError(err)
		// Nobody reads from here on: the container must see a broken pipe, not a full one.
		conn.Close()
	}()
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) { return s.stdout.Read(p) }

func (s *stream) Write(p []byte) (int, error) { return s.conn.Conn.Write(p) }

func (s *stream) CloseWrite() error { return s.conn.CloseWrite() }

func (s *stream) Close() error {
	s.close.Do(func() {
		s.conn.Close()
		_ = s.stdout.Close() // never fails; frees a writer that waits for a reader
		<-s.done
	})
	return nil
}
