package ecosystem

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// home is a Rumi home with an ecosystem.
type home struct {
	dir    string
	eco    *Ecosystem
	stages *staging.Area
	store  *store.Store

	retired  []string // packs that are being uninstalled
	approved []string // packs that were approved once
	unasked  error    // why nobody can say
}

// newHome opens a home in dir, as a process does that starts there.
func newHome(t testing.TB, dir string) *home {
	t.Helper()
	h := &home{dir: dir}
	for _, dir := range []string{"ecosystem", "user_data/import"} {
		check(t, os.MkdirAll(h.path(dir), 0o755))
	}
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: h.path("user_data/state"), Service: "pack-registry"}, store.Migrations())
	check(t, err)
	t.Cleanup(func() { db.Close() })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	auditLog, err := audit.Open(h.path("user_data/audit"), "pack-registry", log)
	check(t, err)
	t.Cleanup(func() { auditLog.Close() })
	h.store = store.New(db)
	h.stages = staging.Open(h.path("user_data/pack_staging"), staging.ImportFolders{Home: h.dir, Inside: []string{"user_data/import"}}, h.store, auditLog, log, prometheus.NewRegistry())
	t.Cleanup(func() { h.stages.Close() })
	h.eco, err = Open(Config{Metrics: prometheus.NewRegistry(), Dir: h.path("ecosystem"), Backups: h.path("user_data/pack_backups"), Lock: h.path("user_data/pack_staging/.lock"),
		Retired:  func(context.Context) ([]string, error) { return h.retired, h.unasked },
		Approved: func(_ context.Context, id string) (bool, error) { return slices.Contains(h.approved, id), h.unasked }}, h.stages, h.store, auditLog, log)
	check(t, err)
	t.Cleanup(func() { h.eco.Close() })
	return h
}

func (h *home) path(p string) string { return filepath.Join(h.dir, p) }

func (h *home) write(t testing.TB, path, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(h.path(path)), 0o755))
	check(t, os.WriteFile(h.path(path), []byte(content), 0o644))
}

// stage imports what write put into a folder of user_data/import.
func (h *home) stage(t testing.TB, name string) string {
	t.Helper()
	st, err := h.stages.ImportPath(t.Context(), "user_data/import/"+name, "")
	check(t, err)
	return st.ID
}

// files lists the files under a folder with their contents, "path=content", and the links, "path->target".
func (h *home) files(t testing.TB, dir string) []string {
	t.Helper()
	all := []string{}
	err := filepath.WalkDir(h.path(dir), func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(h.path(dir), path)
		if d.Type()&os.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			all = append(all, name+"->"+target)
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, name+"="+string(content))
		return err
	})
	check(t, err)
	slices.Sort(all)
	return all
}

// names lists what lies in a folder, hidden names too.
func (h *home) names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(h.path(dir))
	if !os.IsNotExist(err) {
		check(t, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func descriptor(id, identity string) string {
	return `{"pack_id": "` + id + `", "pack_identity": "` + identity + `"}`
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
