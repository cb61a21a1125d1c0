package auditlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// However a file grows and in whatever pieces it is read, the lines are the same.
func TestLinesOfAFileThatGrows(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for n := range 300 {
		length := random.IntN(2000)
		switch n {
		case 20:
			length = 0
		case 50, 51:
			length = 3*pieceSize + n
		case 52:
			length = pieceSize - 1
		}
		lines = append(lines, strings.Repeat(fmt.Sprint(n%10), length))
	}
	content := []byte(strings.Join(lines, "\n") + "\nunfinished")

	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader := newLineReader(file, 0, newPiece())
	var got []hash
	for rest := content; len(rest) > 0; {
		n := min(len(rest), random.IntN(200_000))
		if _, err := file.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
		for more := true; more; {
			full := 0
			more, err = reader.read(100_000, func(h hash, end int64) error {
				got = append(got, h)
				if content[end-1] != '\n' {
					t.Errorf("line %d ends at %d, where no line ends", len(got), end)
				}
				if full++; full == 7 {
					return errFull
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(got) != len(lines) {
		t.Fatalf("got %d lines, want %d", len(got), len(lines))
	}
	for i, line := range lines {
		if want := leafHash([]byte(line)); got[i] != want {
			t.Errorf("line %d (%d bytes) has the hash %x, want %x", i+1, len(line), got[i][:4], want[:4])
		}
	}
	if want := int64(bytes.LastIndexByte(content, '\n') + 1); reader.end != want {
		t.Errorf("the last whole line ends at %d, want %d", reader.end, want)
	}
}
