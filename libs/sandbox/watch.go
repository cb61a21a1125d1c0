package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// outage is how long the engine has not answered; the zero value says that it answers.
type outage struct {
	since time.Time
	err   error
}

const (
	pingInterval = time.Second
	readyGrace   = 30 * time.Second // how long an engine may be away, restarting, before Ready says so
)

// ErrSocketReplaced says that the socket file that this process has mounted was deleted on the host. It was mounted as a file, not with its folder; an
// engine that restarts makes a new file, which this process will never see.
var ErrSocketReplaced = errors.New("the engine's socket was replaced, and this process sees the old one; a restart of its container mounts the new one")

// Watch asks the engine each second whether it answers, until ctx ends. It returns ErrSocketReplaced as soon as the
// engine can't be reached and never will be again: the process must end then, to be restarted by the engine.
func (e *Engine) Watch(ctx context.Context) error {
	return periodic.RunErr(ctx, pingInterval, e.ping, periodic.Immediately)
}

// ping asks the engine once whether it answers.
func (e *Engine) ping(ctx context.Context) error {
	bound, cancel := bounded(ctx, answerWait)
	defer cancel()
	_, err := e.api.Ping(bound)
	if ctx.Err() != nil {
		return nil
	}
	e.mu.Lock()
	switch {
	case err == nil:
		e.outage = outage{}
	case e.outage.since.IsZero():
		e.outage = outage{time.Now(), err}
	default:
		e.outage.err = err
	}
	e.mu.Unlock()
	if err != nil && e.socketReplaced() {
		return fmt.Errorf("watch %s: %w", e.socket, ErrSocketReplaced)
	}
	return nil
}

// socketReplaced says whether the engine's socket was deleted on the host: no name leads to it any more.
func (e *Engine) socketReplaced() bool {
	if e.socket == "" {
		return false
	}
	file, err := os.Stat(e.socket)
	if err != nil {
		return errors.Is(err, syscall.ESTALE)
	}
	is, ok := file.Sys().(*syscall.Stat_t)
	return ok && is.Nlink == 0
}

// Ready is an error where the engine has not answered Watch for 30 s. It asks nothing.
func (e *Engine) Ready(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.outage.since.IsZero() || time.Since(e.outage.since) < readyGrace {
		return nil
	}
	return fmt.Errorf("Docker has not answered for %v: %w", time.Since(e.outage.since).Round(time.Second), e.outage.err)
}
