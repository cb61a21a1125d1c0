package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNobodyElsePollsTheMountTable: the kernel tells each open file once that the table of mounts has changed, whoever asks. Go's own
// poller asks as soon as there is something to tell, and mounts would find nothing.
func TestNobodyElsePollsTheMountTable(t *testing.T) {
	m, err := openMounts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}()
	// What is polled stands in the fdinfo of the poller (proc_pid_fdinfo(5)). There is one at least, since another file is
	// polled: a pipe.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	pollers := 0
	for _, name := range infos {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // closed since
		}
		for line := range strings.Lines(string(text)) {
			var fd uintptr
			if n, _ := fmt.Sscanf(line, "tfd: %d", &fd); n == 0 {
				continue
			}
			pollers++
			if fd == m.table.Fd() {
				t.Errorf("%s polls it: %s; want nobody to", name, line)
			}
		}
	}
	if pollers == 0 {
		t.Error("no file is polled at all")
	}
}
