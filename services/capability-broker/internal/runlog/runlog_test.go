package runlog

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// output yields a line for each text, and then err if there is one.
func output(err error, texts ...string) iter.Seq2[sandbox.Line, error] {
	return func(yield func(sandbox.Line, error) bool) {
		for _, text := range texts {
			if !yield(sandbox.Line{Stream: "stdout", Text: text}, nil) {
				return
			}
		}
		if err != nil {
			yield(sandbox.Line{}, err)
		}
	}
}

// texts reads a run, its head included.
func texts(t *testing.T, s Store, number int) (list []string) {
	t.Helper()
	for line, err := range s.Read("p", number) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, line.Stream+": "+line.Text)
	}
	return list
}

func TestTheLastRunsAreKept(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for i := range Kept + 2 {
		if err := s.Save("p", Head{Digest: fmt.Sprint("d", i+1), StartedAt: time.Now()}, output(nil, "a", "b\xff")); err != nil {
			t.Fatal(err)
		}
	}
	numbers, err := s.Numbers("p")
	if want := []int{3, 4, 5, 6, 7}; err != nil || !slices.Equal(numbers, want) {
		t.Errorf("got runs %v, %v; want %v", numbers, err, want)
	}
	if got, want := texts(t, s, 7), []string{"run: started d7", "stdout: a", "stdout: b\uFFFD"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := s.Remove("p"); err != nil {
		t.Fatal(err)
	}
	if numbers, err := s.Numbers("p"); err != nil || len(numbers) != 0 {
		t.Errorf("after the removal: got runs %v, %v; want none", numbers, err)
	}
}

// A pack that prints without end fills neither the memory nor the disk: the last lines are kept.
func TestARunIsBounded(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	long := strings.Repeat("x", maxText/2)
	if err := s.Save("p", Head{Digest: "d1"}, output(nil, "first", long, long, "last")); err != nil {
		t.Fatal(err)
	}
	got := texts(t, s, 1)
	if len(got) != 3 || got[1] != "stdout: "+long || got[2] != "stdout: last" {
		t.Errorf("got %d lines, want the head, one long line and the last one", len(got))
	}
}

// Output that can't be read to its end leaves no half of a run.
func TestAFailedRunLeavesNothing(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	lost := errors.New("the engine went away")
	if err := s.Save("p", Head{Digest: "d1"}, output(lost, "a")); !errors.Is(err, lost) {
		t.Errorf("got %v, want %v", err, lost)
	}
	if entries, err := os.ReadDir(s.Dir); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v; want nothing in the folder", entries, err)
	}
}
