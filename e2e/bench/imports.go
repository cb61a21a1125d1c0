package main

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/e2e/bench/internal/baseline"
	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// way is one to get a large archive's content onto the disk, synced.
type way struct {
	pids []int // the servers that do it
	// do says where it put it (a file or a folder), and how much processor time programs used that it ran.
	do func(ctx context.Context) (left string, used time.Duration, err error)

	took, used []time.Duration // all processor time, but for the client's
}

// measure goes the way once. What that leaves stays for the suite's end, since ext4 searches long for a new file's inode where many were
// freed in the last minutes; but the memory that holds it is given back, so that nobody waits for more of it from a hypervisor.
func (w *way) measure(ctx context.Context) error {
	before, began := load.ProcessorTime(w.pids), time.Now()
	left, used, err := w.do(ctx)
	if err != nil {
		return err
	}
	w.took = append(w.took, time.Since(began))
	w.used = append(w.used, used+load.ProcessorTime(w.pids)-before)
	return evict(left)
}

// evict has the kernel forget the content of a synced file, or of all in a folder, until somebody reads it.
func evict(path string) error {
	return filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("evict: %w", err)
		}
		defer f.Close()
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("evict: %w", err)
		}
		return nil
	})
}

// flow is the median of bytes a second, 0 where nothing was measured.
func (w *way) flow(size int64) float64 {
	if len(w.took) == 0 {
		return 0
	}
	p50, _ := load.Durations(w.took)
	return float64(size) / p50.Seconds()
}

// perGB is the median of seconds of processor time.
func (w *way) perGB(size int64) float64 {
	p50, _ := load.Durations(w.used)
	return p50.Seconds() / float64(size) * 1e9
}

// imports measures the import of a large archive, by path and by upload, beside a synced copy of it, and the upload beside the
// same journey through the tools that one would take for it, too.
//
// Where memory is at hand, an upload on two processors is not as fast as a copy. dd takes 0.3 s of processor time a GB (up to 2.5 s
// where a hypervisor has to give the memory first, which an upload meets as well). An upload passes two services, is encrypted and
// decrypted between them, and nothing of it may be written in its place before its end has arrived, where an archive's directory
// is: that takes about 2 s a GB for its way, of which the kernel's TCP has the half and AES-GCM a sixth, and 0.6 s for unpacking.
// Two processors can do that in 1.3 s at best, where dd takes 0.8. The same bytes over as many hops, in plain TCP and kept as they
// came, are the bound that no upload passes: where that is slower than a copy, so is each upload.
func (b *bench) imports(ctx context.Context) (err error) {
	archive := filepath.Join(b.suite.Home, "user_data/import/large.zip")
	size, err := writeArchive(archive, b.scale.archive)
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	gateway, registry := b.suite.PID("gateway"), b.suite.PID("pack-registry")
	if err := errors.Join(suite.ResetPeak(gateway), suite.ResetPeak(registry)); err != nil {
		return err
	}
	stagings := filepath.Join(b.suite.Home, "user_data/pack_staging")
	copied := &way{do: func(ctx context.Context) (string, time.Duration, error) {
		to := archive + "." + strings.ToLower(rand.Text()[:6])
		used, err := program(ctx, "", "dd", "if="+archive, "of="+to, "bs=1M", "conv=fsync")
		return to, used, err
	}}
	byPath := &way{pids: []int{gateway, registry}, do: func(ctx context.Context) (string, time.Duration, error) {
		var s staged
		err := b.post(ctx, "/api/packs/import", map[string]any{"path": "user_data/import/large.zip"}, &s)
		return filepath.Join(stagings, s.ID), 0, err
	}}
	byUpload := &way{pids: byPath.pids, do: func(ctx context.Context) (string, time.Duration, error) {
		s, err := b.upload(ctx, archive)
		return filepath.Join(stagings, s.ID), 0, err
	}}
	ways := []*way{copied, byPath, byUpload}
	tools, stop, err := b.uploadTools(ctx, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if tools.do != nil {
		ways = append(ways, tools)
	}
	bare, stopBare, err := b.bareUpload(ctx, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopBare()) }()
	ways = append(ways, bare)
	for range b.scale.repeats {
		for _, w := range ways {
			if err := w.measure(ctx); err != nil {
				return err
			}
		}
		slices.Reverse(ways)
	}
	what := "import of " + table.Bytes.Format(float64(size))
	row := func(path string, goal table.Goal, ours *way, beside string, theirs *way) {
		r := table.Row{Path: path, Unit: table.Flow, Goal: goal, Ours: ours.flow(size), Beside: beside, Theirs: theirs.flow(size)}
		r.OursMore = fmt.Sprintf("(%.1f s", ours.perGB(size))
		if r.Theirs > 0 {
			r.OursMore += fmt.Sprintf(", theirs %.1f s", theirs.perGB(size))
		}
		r.OursMore += " of CPU a GB)"
		b.row(r)
	}
	row(what+", by path", table.Goal{Ratio: 1}, byPath, "dd and a sync", copied)
	row(what+", by upload", table.Goal{Ratio: 1}, byUpload, "dd and a sync", copied)
	row(what+", by upload", table.Goal{}, byUpload, "nginx twice, bsdtar and a sync", tools)
	row(what+", by upload", table.Goal{}, byUpload, "its bytes over as many hops, synced", bare)
	row("its bytes over as many hops, synced", table.Goal{}, bare, "dd and a sync", copied)
	for _, service := range []string{"gateway", "pack-registry"} {
		peak, err := suite.Peak(b.suite.PID(service))
		if err != nil {
			return err
		}
		b.row(table.Row{Path: "memory of " + service + " in it, at most", Unit: table.Bytes, Goal: table.Goal{Bound: 32 << 20}, Ours: float64(peak)})
	}
	return nil
}

// program runs a program in a folder and says how much processor time it used.
func program(ctx context.Context, dir, name string, args ...string) (used time.Duration, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("run %s: %w\n%s", name, err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// uploadTools is an upload with what Debian has for it: through an nginx to another with mutual TLS, as through the gateway to
// pack-registry, unpacked (by bsdtar, which takes a third of unzip's time) and synced. It does nothing where one of the tools is absent. stop is there unless it fails.
func (b *bench) uploadTools(ctx context.Context, archive string) (w *way, stop func() error, err error) {
	stop = func() error { return nil }
	if _, err := exec.LookPath("bsdtar"); err != nil {
		return &way{}, stop, nil
	}
	var dirs [3]string
	for i := range dirs {
		if dirs[i], err = b.suite.Dir("nginx"); err != nil {
			return nil, nil, err
		}
	}
	stored := dirs[2]
	servers, err := baseline.NginxUploads(ctx, dirs[0], dirs[1], baseline.Target{Name: "pack-registry", Identity: b.suite.Identity("gateway")},
		b.suite.Identity("pack-registry"), stored)
	if errors.Is(err, baseline.ErrAbsent) {
		return &way{}, stop, nil
	}
	if err != nil {
		return nil, nil, err
	}
	stop = func() (err error) {
		for _, s := range servers {
			err = errors.Join(err, s.Stop())
		}
		return err
	}
	w = &way{do: func(ctx context.Context) (string, time.Duration, error) {
		if err := put(ctx, archive, "http://"+servers[0].Address+"/large.zip"); err != nil {
			return "", 0, err
		}
		to, err := os.MkdirTemp(stored, "unpacked-")
		if err != nil {
			return "", 0, fmt.Errorf("unpack: %w", err)
		}
		// What was sent is not kept, as Rumi doesn't, so it needn't be synced.
		unpacked, err := program(ctx, to, "sh", "-c", "bsdtar -xf ../large.zip && rm ../large.zip")
		if err != nil {
			return "", 0, err
		}
		synced, err := program(ctx, to, "sync", "-f", ".")
		return to, unpacked + synced, err
	}}
	for _, s := range servers {
		w.pids = append(w.pids, s.PIDs()...)
	}
	return w, stop, nil
}

// bareUpload sends an archive over as many hops as an upload takes, in plain TCP, into a file that is synced: nothing is asked,
// encrypted, judged or unpacked. No upload is faster than that.
func (b *bench) bareUpload(ctx context.Context, archive string) (w *way, stop func() error, err error) {
	dir, err := b.suite.Dir("kept")
	if err != nil {
		return nil, nil, err
	}
	last, err := b.startSelf(ctx, "keep", dir)
	if err != nil {
		return nil, nil, err
	}
	first, err := b.startSelf(ctx, "relay", last.Address)
	if err != nil {
		return nil, nil, errors.Join(err, last.Stop())
	}
	w = &way{pids: []int{first.PID(), last.PID()}, do: func(context.Context) (string, time.Duration, error) {
		file, err := send(archive, first.Address)
		return file, 0, err
	}}
	return w, func() error { return errors.Join(first.Stop(), last.Stop()) }, nil
}

// send sends a file over TCP to a keepCommand and says in which it was kept.
func send(file, address string) (to string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	defer f.Close()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	defer conn.Close()
	if _, err := io.Copy(conn, f); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	kept, err := io.ReadAll(conn)
	if err == nil && len(kept) == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	return string(kept), nil
}

// put sends a file as the body of a PUT.
func put(ctx context.Context, file, url string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, f)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	request.ContentLength = info.Size()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("put: answered %s", response.Status)
	}
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
