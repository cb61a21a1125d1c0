package tree_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/tree"
)

// BenchmarkVerify reads trees with Scan, as a verification that must hash does, and the same files with sha256sum, in turns.
// x-sha256sum is how many times as fast Scan is, the start of the other process included; the goal is at least 0.8.
func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct {
		name  string
		files int
		size  int
	}{
		{"50 files of 4 KiB", 50, 4 << 10}, // a pack of design.md's numbers
		{"10000 files of 4 KiB", 10_000, 4 << 10},
		{"200 files of 1 MiB", 200, 1 << 20},
		{"1 file of 256 MiB", 1, 256 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			names := make([]string, c.files)
			content := make([]byte, c.size)
			for i := range names {
				names[i] = filepath.Join(fmt.Sprintf("d%d", i%5), fmt.Sprintf("f%d", i))
				_, _ = rand.Read(content[:min(c.size, 64)])
				path := filepath.Join(dir, names[i])
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(path, content, 0o644); err != nil {
					b.Fatal(err)
				}
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			b.SetBytes(int64(c.files) * int64(c.size))
			var ours, theirs time.Duration
			for b.Loop() {
				began := time.Now()
				m, err := tree.Scan(b.Context(), root, nil)
				if err != nil || m.Bytes() != int64(c.files)*int64(c.size) {
					b.Fatalf("the scan gives %d bytes, %v; want %d", m.Bytes(), err, int64(c.files)*int64(c.size))
				}
				ours += time.Since(began)

				b.StopTimer()
				cmd := exec.Command("sha256sum", names...)
				cmd.Dir = dir
				began = time.Now()
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				theirs += time.Since(began)
				b.StartTimer()
			}
			b.ReportMetric(float64(theirs)/float64(ours), "x-sha256sum")
		})
	}
}
