package main

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// filesEach is how many files a pack has, as design.md's numbers have them.
const filesEach = 50

// packs measures what operators do with packs: scanning, approving and importing them.
func (b *bench) packs(ctx context.Context) error {
	for i := range b.scale.packs {
		if err := b.write(packName(i), packFiles(i)); err != nil {
			return err
		}
	}
	if err := b.scans(ctx); err != nil {
		return err
	}
	var took []time.Duration
	for i := range min(b.scale.approved, b.scale.packs) {
		began := time.Now()
		if err := b.approve(ctx, packName(i)); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	p50, p99 := load.Durations(took)
	b.row(table.Row{Path: fmt.Sprintf("approve a pack of %d files, p50", filesEach), Unit: table.Seconds, Goal: table.Goal{Bound: 10e-3}, Ours: p50.Seconds(),
		OursMore: "(p99 " + table.Seconds.Format(p99.Seconds()) + ")", Published: "original 9–20 ms, without keeping a copy"})
	return b.imports(ctx)
}

func packName(i int) string { return fmt.Sprintf("bench-%03d", i) }

// packFiles are those of a pack beside its descriptor. No two are alike.
func packFiles(i int) map[string]string {
	files := map[string]string{}
	for n := range filesEach - 1 {
		files[fmt.Sprintf("backend/m%02d.py", n)] = fmt.Sprintf("# %d %d\n%s", i, n, strings.Repeat("x = 1\n", 700))
	}
	return files
}

// scans measures a first scan of new packs and further ones, beside sha256sum over the same files.
func (b *bench) scans(ctx context.Context) error {
	hash := func() (time.Duration, error) {
		cmd := exec.CommandContext(ctx, "sh", "-c", "find . -type f -print0 | xargs -0 sha256sum >/dev/null")
		cmd.Dir = filepath.Join(b.suite.Home, "ecosystem")
		began := time.Now()
		err := cmd.Run()
		return time.Since(began), err
	}
	scan := func() (time.Duration, error) {
		began := time.Now()
		err := b.scan(ctx)
		return time.Since(began), err
	}
	plain, err := hash()
	if err != nil {
		return fmt.Errorf("run sha256sum: %w", err)
	}
	first, err := scan()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("scan of %d packs × %d files", b.scale.packs, filesEach)
	b.row(table.Row{Path: what + ", first", Unit: table.Seconds, Goal: table.Goal{Bound: 100e-3}, Ours: first.Seconds(),
		Beside: "sha256sum of the files", Theirs: plain.Seconds(), Published: "original 656 ms"})
	var again []time.Duration
	for range b.scale.repeats {
		took, err := scan()
		if err != nil {
			return err
		}
		again = append(again, took)
	}
	p50, _ := load.Durations(again)
	b.row(table.Row{Path: what + ", again", Unit: table.Seconds, Goal: table.Goal{Bound: 5e-3}, Ours: p50.Seconds(), Published: "original 17 ms"})
	return nil
}

// imports measures the import of a large archive, by path and by upload, beside a synced copy of it.
func (b *bench) imports(ctx context.Context) error {
	archive := filepath.Join(b.suite.Home, "user_data/import/large.zip")
	size, err := writeArchive(archive, b.scale.archive)
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	registry := b.suite.PID("pack-registry")
	if err := suite.ResetPeak(registry); err != nil {
		return err
	}
	ways := []struct {
		name string
		do   func() (staged, error)
		took []time.Duration
	}{
		{name: "by path", do: func() (s staged, err error) {
			return s, b.post(ctx, "/api/packs/import", map[string]any{"path": "user_data/import/large.zip"}, &s)
		}},
		{name: "by upload", do: func() (staged, error) { return b.upload(ctx, archive) }},
	}
	var copied []time.Duration
	for range min(b.scale.repeats, 2) {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, "dd", "if="+archive, "of="+archive+".copy", "bs=1M", "conv=fsync").CombinedOutput(); err != nil {
			return fmt.Errorf("run dd: %w\n%s", err, out)
		}
		copied = append(copied, time.Since(began))
		if err := os.Remove(archive + ".copy"); err != nil {
			return err
		}
		for i := range ways {
			began := time.Now()
			s, err := ways[i].do()
			if err != nil {
				return fmt.Errorf("import %s: %w", ways[i].name, err)
			}
			ways[i].took = append(ways[i].took, time.Since(began))
			if err := succeeded(nil)(b.suite.API.Delete(ctx, "/api/packs/staging/"+s.ID)); err != nil {
				return err
			}
		}
	}
	flow := func(took []time.Duration) float64 {
		p50, _ := load.Durations(took)
		return float64(size) / p50.Seconds()
	}
	for _, w := range ways {
		b.row(table.Row{Path: fmt.Sprintf("import of %s, %s", table.Bytes.Format(float64(size)), w.name), Unit: table.Flow, Goal: table.Goal{Ratio: 1},
			Ours: flow(w.took), Beside: "dd and a sync", Theirs: flow(copied)})
	}
	peak, err := suite.Peak(registry)
	if err != nil {
		return err
	}
	b.row(table.Row{Path: "memory of pack-registry in it, at most", Unit: table.Bytes, Goal: table.Goal{Bound: 32 << 20}, Ours: float64(peak)})
	return nil
}

// staged is what an import answers.
type staged struct {
	ID string `json:"staging_id"`
}

// upload sends an archive as a form, from its file.
func (b *bench) upload(ctx context.Context, archive string) (s staged, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	var head strings.Builder
	form := multipart.NewWriter(&head)
	if _, err := form.CreateFormFile("file", "large.zip"); err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	tail := "\r\n--" + form.Boundary() + "--\r\n"
	body := io.MultiReader(strings.NewReader(head.String()), f, strings.NewReader(tail))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.suite.API.Base+"/api/packs/import", body)
	if err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	request.ContentLength = int64(head.Len()) + info.Size() + int64(len(tail))
	request.Header.Set("Content-Type", form.FormDataContentType())
	request.Header.Set("Authorization", "Bearer "+b.suite.API.Token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Success bool   `json:"success"`
		Data    staged `json:"data"`
		Error   string `json:"error"`
	}
	if err := json.UnmarshalRead(response.Body, &answer); err != nil {
		return s, fmt.Errorf("upload: %w", err)
	}
	if !answer.Success {
		return s, fmt.Errorf("upload: answered %d %s", response.StatusCode, answer.Error)
	}
	return answer.Data, nil
}

// writeArchive makes an archive with files of a MiB that don't compress, and says how long it is. It is on the disk then.
func writeArchive(path string, bytes int64) (size int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, fmt.Errorf("write archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z := zip.NewWriter(f)
	descriptor, err := z.Create("large/ecosystem.json")
	if err != nil {
		return 0, fmt.Errorf("write archive: %w", err)
	}
	if _, err := io.WriteString(descriptor, `{"pack_id": "large", "pack_identity": "github:bench/large"}`); err != nil {
		return 0, fmt.Errorf("write archive: %w", err)
	}
	for i := range bytes >> 20 {
		entry, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("large/data/%03d.bin", i), Method: zip.Store})
		if err == nil {
			_, err = io.CopyN(entry, rand.Reader, 1<<20)
		}
		if err != nil {
			return 0, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := errors.Join(z.Close(), f.Sync()); err != nil {
		return 0, fmt.Errorf("write archive: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("write archive: %w", err)
	}
	return info.Size(), nil
}
