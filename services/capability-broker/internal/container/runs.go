package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Bounds of what is kept of a pack's output when its container is replaced.
const (
	RunsKept = 5       // containers before the one that is there
	runLines = 10_000  // of each, the last ones
	runBytes = 4 << 20 // of their text
	runWait  = 5 * time.Second
	maxRun   = 16 << 20 // bytes of a file's line; text has 64 KiB at most
)

// RunStream is the stream of the line that begins a run.
const RunStream = "run"

// runHead is the first line of a run's file; the others are sandbox.Lines.
type runHead struct {
	Digest    string    `json:"digest"`
	StartedAt time.Time `json:"started_at"`
}

func (h runHead) line() sandbox.Line {
	return sandbox.Line{Time: h.StartedAt, Stream: RunStream, Text: "started " + h.Digest}
}

func (m *Manager) runsOf(packID string) string { return filepath.Join(m.RunsDir, packID) }

// runNumbers are the runs that are kept of a pack, the oldest first.
func (m *Manager) runNumbers(packID string) ([]int, error) {
	entries, err := os.ReadDir(m.runsOf(packID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for runs of %s: %w", packID, err)
	}
	var numbers []int
	for _, e := range entries {
		if digits, is := strings.CutSuffix(e.Name(), ".jsonl"); is {
			if n, err := strconv.Atoi(digits); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (m *Manager) runFile(packID string, number int) string {
	return filepath.Join(m.runsOf(packID), fmt.Sprintf("%06d.jsonl", number))
}

// keepRun keeps the output of a container that is going to be replaced. That it can't is no reason not to replace it.
func (m *Manager) keepRun(ctx context.Context, c sandbox.Container) {
	if err := m.saveRun(ctx, c); err != nil {
		m.Log.WarnContext(ctx, "the output of a pack's last run could not be kept", "pack_id", c.PackID, "error", err)
	}
}

func (m *Manager) saveRun(ctx context.Context, c sandbox.Container) error {
	if c.Started.IsZero() {
		return nil // it has never run
	}
	ctx, cancel := context.WithTimeout(ctx, runWait)
	defer cancel()
	var lines []sandbox.Line
	size := 0
	for line, err := range m.Engine.Logs(ctx, c.ID, sandbox.LogOptions{Tail: runLines}) {
		if err != nil {
			return err
		}
		lines = append(lines, line)
		for size += len(line.Text); size > runBytes; lines = lines[1:] {
			size -= len(lines[0].Text)
		}
	}
	numbers, err := m.runNumbers(c.PackID)
	if err != nil {
		return err
	}
	number := 1
	if len(numbers) > 0 {
		number = numbers[len(numbers)-1] + 1
	}
	if err := os.MkdirAll(m.runsOf(c.PackID), 0o750); err != nil {
		return fmt.Errorf("keep run: %w", err)
	}
	path := m.runFile(c.PackID, number)
	if err := writeRun(path, runHead{c.Digest, c.Started}, lines); err != nil {
		return fmt.Errorf("keep run: %w", err)
	}
	var failures []error
	for _, old := range numbers[:max(0, len(numbers)+1-RunsKept)] {
		failures = append(failures, os.Remove(m.runFile(c.PackID, old)))
	}
	return errors.Join(failures...)
}

// writeRun writes a run whole or not at all.
func writeRun(path string, head runHead, lines []sandbox.Line) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".run-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	out := bufio.NewWriter(temp)
	put := func(v any) error {
		text, err := json.Marshal(v)
		if err == nil {
			_, err = out.Write(append(text, '\n'))
		}
		return err
	}
	err = put(head)
	for _, line := range lines {
		line.Text = strings.ToValidUTF8(line.Text, "\uFFFD")
		err = errors.Join(err, put(line))
	}
	if err = errors.Join(err, out.Flush(), temp.Chmod(0o640), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// readRun gives a kept run, its beginning first.
func readRun(path string) iter.Seq2[sandbox.Line, error] {
	return func(yield func(sandbox.Line, error) bool) {
		file, err := os.Open(path)
		if err != nil {
			yield(sandbox.Line{}, fmt.Errorf("read run: %w", err))
			return
		}
		defer file.Close()
		text := bufio.NewScanner(file)
		text.Buffer(nil, maxRun)
		for first := true; text.Scan(); first = false {
			var line sandbox.Line
			var head runHead
			if first {
				err = json.Unmarshal(text.Bytes(), &head)
				line = head.line()
			} else {
				err = json.Unmarshal(text.Bytes(), &line)
			}
			if err != nil {
				yield(sandbox.Line{}, fmt.Errorf("read run: %w", err))
				return
			}
			if !yield(line, nil) {
				return
			}
		}
		if err := text.Err(); err != nil {
			yield(sandbox.Line{}, fmt.Errorf("read run: %w", err))
		}
	}
}

// RunLogs gives the output of a run before the container that is there: -1 is the last one. One that isn't kept is not found.
func (m *Manager) RunLogs(packID string, run int) (iter.Seq2[sandbox.Line, error], error) {
	numbers, err := m.runNumbers(packID)
	if err != nil {
		return nil, err
	}
	if len(numbers)+run < 0 {
		return nil, fault.NotFound("Run not found: the output of %d earlier runs is kept", len(numbers)).With("run_not_found")
	}
	return readRun(m.runFile(packID, numbers[len(numbers)+run])), nil
}

// LogsSince gives the output of all runs that are kept and of the container that is there, from a time on. Each run begins
// with a line of RunStream. A run that can't be read keeps none of the others.
func (m *Manager) LogsSince(ctx context.Context, packID string, since time.Time) (iter.Seq2[sandbox.Line, error], error) {
	c, err := m.ownContainer(ctx, packID)
	if err != nil {
		return nil, err
	}
	numbers, err := m.runNumbers(packID)
	if err != nil {
		return nil, err
	}
	if c == nil && len(numbers) == 0 {
		return nil, fault.NotFound("Container not found").With("container_not_found")
	}
	return func(yield func(sandbox.Line, error) bool) {
		for _, number := range numbers {
			for line, err := range readRun(m.runFile(packID, number)) {
				if err != nil {
					m.Log.WarnContext(ctx, "a run's output can't be read", "pack_id", packID, "error", err)
					break
				}
				if !line.Time.Before(since) && !yield(line, nil) {
					return
				}
			}
		}
		if c == nil {
			return
		}
		if head := (runHead{c.Digest, c.Started}).line(); !head.Time.Before(since) && !yield(head, nil) {
			return
		}
		for line, err := range m.Engine.Logs(ctx, c.ID, sandbox.LogOptions{}) {
			if (err != nil || !line.Time.Before(since)) && !yield(line, err) {
				return
			}
		}
	}, nil
}
