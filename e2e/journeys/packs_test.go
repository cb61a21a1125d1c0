package journeys

import (
	"archive/zip"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// files are the files of a pack: path to content.
type files map[string]string

// plainPack is a minimal pack: it prints a line and sleeps.
func plainPack(id string) files {
	return files{
		"ecosystem.json":  fmt.Sprintf(`{"pack_id": %q, "pack_identity": "e2e:%s", "version": "1.0.0", "entrypoint": "backend/main.py"}`, id, id),
		"backend/main.py": "import time\nprint('here', flush=True)\nwhile True:\n    time.sleep(60)\n",
	}
}

// with returns the pack with more files, or with other contents of the same files.
func (f files) with(more files) files {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// zip returns the pack as an archive.
func (f files) zip(t *testing.T, id string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		w, err := z.Create(id + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// copyToEcosystem copies a pack into ecosystem/, as an operator would.
func (f files) copyToEcosystem(t *testing.T, id string) {
	t.Helper()
	for name, content := range f {
		path := filepath.Join(suite.home, "ecosystem", id, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// must ends the test unless a call was answered with 200 and success. It returns the answer.
func must(t *testing.T, a api.Answer, err error) api.Answer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != 200 || !a.Success {
		t.Fatalf("got %v, want 200 and success", a)
	}
	return a
}

// get calls a path of the API, which must succeed.
func get(t *testing.T, path string) api.Answer {
	t.Helper()
	a, err := suite.api.Get(t.Context(), path)
	return must(t, a, err)
}

// post sends body to a path of the API, which must succeed.
func post(t *testing.T, path string, body any) api.Answer {
	t.Helper()
	a, err := suite.api.Post(t.Context(), path, body)
	return must(t, a, err)
}

// status returns the status of a pack, as the API reports it.
func status(t *testing.T, pack string) string {
	t.Helper()
	var data struct {
		Status string `json:"status"`
	}
	if err := get(t, "/api/packs/"+pack+"/status").Into(&data); err != nil {
		t.Fatal(err)
	}
	return data.Status
}
