package blob_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/pack/packtest"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
)

// Whatever lies beside bundles, manifests, blobs or unfinished files keeps the store neither from opening nor from giving
// out and collecting what is whole.
func TestOddEntriesKeepNothingFromWorking(t *testing.T) {
	for _, name := range packtest.Names() {
		t.Run(name, func(t *testing.T) {
			if packtest.NeedsRights(name) && os.Geteuid() == 0 {
				t.Skip("root is kept from nothing")
			}
			dir := t.TempDir()
			s, err := blob.Open(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			m := take(t, s, folder(t, map[string]string{"main.py": "print(1)"}), true)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{"bundles", "manifests", "blobs", "blobs/00", "incoming"} {
				packtest.Obstacles[name](t, filepath.Join(dir, at, "odd"))
			}
			if err := os.MkdirAll(filepath.Join(dir, "bundles/folder/inside"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, "incoming/folder/inside"), 0o755); err != nil {
				t.Fatal(err)
			}
			opened := make(chan struct{})
			go func() {
				defer close(opened)
				s, err = blob.Open(dir, slog.New(slog.DiscardHandler))
			}()
			select {
			case <-opened:
			case <-time.After(10 * time.Second):
				t.Fatal("the store is still being opened after 10 s")
			}
			if err != nil {
				t.Fatalf("opening the store failed: %v", err)
			}
			defer s.Close()
			if _, err := s.Collect(func() (historic, current []string, err error) { return nil, []string{m.Digest()}, nil }); err != nil {
				t.Logf("collected around: %v", err) // what can't be removed is told
			}
			wantContent(t, s, m, "print(1)")
		})
	}
}

func wantContent(t *testing.T, s *blob.Store, m tree.Manifest, want string) {
	t.Helper()
	i := slices.IndexFunc(m.Entries, func(e tree.Entry) bool { return e.Kind == tree.File })
	f, err := s.Open(m.Entries[i].SHA256)
	if err != nil {
		t.Fatalf("opening an approved file gave %v", err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != want {
		t.Errorf("an approved file is %q, %v; want %q", got, err, want)
	}
}
