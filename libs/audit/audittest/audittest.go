// Package audittest reads what a test left in the audit log.
package audittest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Text is all lines of a category ("*": of each), of whichever days, in the order of their files' names: a test may run
// over midnight. It is "" where nothing was written.
func Text(t testing.TB, dir, category string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, category+"_*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
