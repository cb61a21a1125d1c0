// Package runlog keeps what packs printed in earlier runs. A container's own output goes with the container; when the broker
// replaces a container (a new approval, an operator's start), package container saves the output here first.
//
// Each pack has a folder, each run a file in it: 000001.jsonl, 000002.jsonl, … The first line of a file is a Head, the others
// are sandbox.Lines, as JSON. Callers hold the pack's lock while they save or remove; reading needs no lock, since files are
// written under a temporary name and renamed when they are whole.
package runlog

import (
	"bufio"
	"bytes"
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

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Bounds of what is kept of a pack. A pack decides how much it prints.
const (
	Kept     = 5        // runs before the container that is there now
	MaxLines = 10_000   // of a run: the last ones
	maxText  = 4 << 20  // bytes of text of a run: the last ones
	maxLine  = 16 << 20 // bytes of a line of a file; its text has 64 KiB at most, which JSON may write several times as long
)

// Stream is the stream of the line that stands at the beginning of each run.
const Stream = "run"

// Head describes a run.
type Head struct {
	Digest    string    `json:"digest"` // of the tree that ran
	StartedAt time.Time `json:"started_at"`
}

// Line is the head as a line of output, of the stream Stream.
func (h Head) Line() sandbox.Line {
	return sandbox.Line{Time: h.StartedAt, Stream: Stream, Text: "started " + h.Digest}
}

// Store is a folder of runs. It is safe for concurrent use by callers that hold the locks that the package comment names.
type Store struct {
	Dir string // its folders are made when they are needed
}

func (s Store) packDir(packID string) string { return filepath.Join(s.Dir, packID) }

func (s Store) file(packID string, number int) string {
	return filepath.Join(s.packDir(packID), fmt.Sprintf("%06d.jsonl", number))
}

// Numbers returns the numbers of the runs that are kept of a pack, the oldest first.
func (s Store) Numbers(packID string) ([]int, error) {
	entries, err := os.ReadDir(s.packDir(packID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list runs of %s: %w", packID, err)
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

// Save keeps the output of a run as the newest one and removes the oldest beyond Kept. An error in output means that nothing is
// kept of this run.
func (s Store) Save(packID string, head Head, output iter.Seq2[sandbox.Line, error]) error {
	lines, err := lastLines(output)
	if err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	numbers, err := s.Numbers(packID)
	if err != nil {
		return err
	}
	number := 1
	if len(numbers) > 0 {
		number = numbers[len(numbers)-1] + 1
	}
	if err := os.MkdirAll(s.packDir(packID), 0o750); err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	if err := write(s.file(packID, number), head, lines); err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	var failures []error
	for _, old := range numbers[:max(0, len(numbers)+1-Kept)] {
		failures = append(failures, os.Remove(s.file(packID, old)))
	}
	return errors.Join(failures...)
}

// lastLines collects the last lines of output, maxText bytes of text at most.
func lastLines(output iter.Seq2[sandbox.Line, error]) (lines []sandbox.Line, err error) {
	size := 0
	for line, err := range output {
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
		for size += len(line.Text); size > maxText; lines = lines[1:] {
			size -= len(lines[0].Text)
		}
	}
	return lines, nil
}

// write writes a run's file whole or not at all.
func write(path string, head Head, lines []sandbox.Line) error {
	var text bytes.Buffer
	encode := func(v any) error {
		line, err := json.Marshal(v)
		text.Write(append(line, '\n'))
		return err
	}
	err := encode(head)
	for _, line := range lines {
		line.Text = strings.ToValidUTF8(line.Text, "\uFFFD")
		err = errors.Join(err, encode(line))
	}
	if err != nil {
		return err
	}
	return atomicfile.WritePath(path, text.Bytes(), 0o640)
}

// Read returns the lines of a run, its head's line first. It ends after an error.
func (s Store) Read(packID string, number int) iter.Seq2[sandbox.Line, error] {
	return func(yield func(sandbox.Line, error) bool) {
		file, err := os.Open(s.file(packID, number))
		if err != nil {
			yield(sandbox.Line{}, fmt.Errorf("read run: %w", err))
			return
		}
		defer file.Close()
		text := bufio.NewScanner(file)
		text.Buffer(nil, maxLine)
		for first := true; text.Scan(); first = false {
			line, err := decode(text.Bytes(), first)
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

// decode reads a line of a run's file; the first one is the head.
func decode(text []byte, first bool) (line sandbox.Line, err error) {
	if !first {
		err = json.Unmarshal(text, &line)
		return line, err
	}
	var head Head
	err = json.Unmarshal(text, &head)
	return head.Line(), err
}

// Remove removes all runs of a pack. A pack without any is no error.
func (s Store) Remove(packID string) error { return os.RemoveAll(s.packDir(packID)) }
