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

// method is one way to bring the content of a large archive onto the disk, synced.
type method struct {
	pids []int // the servers that take part
	// do does it once. It returns the file or folder that it left, and the processor time of the programs that it ran.
	do func(ctx context.Context) (left string, used time.Duration, err error)

	took, used []time.Duration // of each measurement: its duration, and the processor time of servers and programs, without the client's
}

// measure does it once. The files that it leaves stay until the suite ends: ext4 searches long for the inode of a new file if many inodes were
// freed in the last minutes. But their memory in the page cache is released. Otherwise the next contestant would wait until a hypervisor
// gives the machine more memory.
func (m *method) measure(ctx context.Context) error {
	before, began := load.ProcessorTime(m.pids), time.Now()
	left, used, err := m.do(ctx)
	if err != nil {
		return err
	}
	m.took = append(m.took, time.Since(began))
	m.used = append(m.used, used+load.ProcessorTime(m.pids)-before)
	return evict(left)
}

// evict drops the content of a synced file, or of all files in a folder, from the page cache.
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

// flow is the median rate in bytes a second; 0 if nothing was measured.
func (m *method) flow(size int64) float64 {
	if len(m.took) == 0 {
		return 0
	}
	p50, _ := load.Durations(m.took)
	return float64(size) / p50.Seconds()
}

// perGB is the median processor time in seconds for each GB.
func (m *method) perGB(size int64) float64 {
	p50, _ := load.Durations(m.used)
	return p50.Seconds() / float64(size) * 1e9
}

// imports measures the import of a large archive, by path and by upload, beside a synced copy of the archive. It measures the upload beside
// two more contestants: Debian's tools for the same task, and the bare transfer of the same bytes.
//
// With enough free memory, an upload on two processors is slower than a copy:
//
//   - dd takes 0.3 s of processor time a GB. It takes up to 2.5 s if a hypervisor must give the memory first; so does an upload.
//   - An upload takes about 2 s a GB for the transfer through two services, with encryption between them. Half of it is the kernel's TCP, a
//     sixth AES-GCM. Unpacking takes 0.6 s more, and can't begin before the end has arrived, because a zip file has its directory there.
//   - Two processors do that in 1.3 s at best, where dd takes 0.8 s.
//
// The bare transfer sends the same bytes over as many hops, in plain TCP, and stores them unchanged. No upload can be faster. If the bare
// transfer is slower than a copy, every upload is.
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
	copied := &method{do: func(ctx context.Context) (string, time.Duration, error) {
		to := archive + "." + strings.ToLower(rand.Text()[:6])
		used, err := program(ctx, "", "dd", "if="+archive, "of="+to, "bs=1M", "conv=fsync")
		return to, used, err
	}}
	byPath := &method{pids: []int{gateway, registry}, do: func(ctx context.Context) (string, time.Duration, error) {
		var s staged
		err := b.post(ctx, "/api/packs/import", map[string]any{"path": "user_data/import/large.zip"}, &s)
		return filepath.Join(stagings, s.ID), 0, err
	}}
	byUpload := &method{pids: byPath.pids, do: func(ctx context.Context) (string, time.Duration, error) {
		s, err := b.upload(ctx, archive)
		return filepath.Join(stagings, s.ID), 0, err
	}}
	methods := []*method{copied, byPath, byUpload}
	tools, stop, err := b.uploadTools(ctx, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if tools.do != nil {
		methods = append(methods, tools)
	}
	bare, stopBare, err := b.bareUpload(ctx, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopBare()) }()
	methods = append(methods, bare)
	for range b.scale.repeats {
		for _, m := range methods {
			if err := m.measure(ctx); err != nil {
				return err
			}
		}
		slices.Reverse(methods)
	}
	what := "import of " + table.Bytes.Format(float64(size))
	row := func(path string, goal table.Goal, ours *method, beside string, theirs *method) {
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

// program runs a program in a folder and returns the processor time that it used.
func program(ctx context.Context, dir, name string, args ...string) (used time.Duration, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("run %s: %w\n%s", name, err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// uploadTools is an upload with Debian's tools: through one nginx to another one with mutual TLS, as through the gateway to pack-registry. Then
// bsdtar unpacks the file (in a third of unzip's time), and sync syncs it. If a tool isn't installed, the method's do is nil. stop is nil
// only with an error.
func (b *bench) uploadTools(ctx context.Context, archive string) (upload *method, stop func() error, err error) {
	stop = func() error { return nil }
	if _, err := exec.LookPath("bsdtar"); err != nil {
		return &method{}, stop, nil
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
		return &method{}, stop, nil
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
	upload = &method{do: func(ctx context.Context) (string, time.Duration, error) {
		if err := put(ctx, archive, "http://"+servers[0].Address+"/large.zip"); err != nil {
			return "", 0, err
		}
		to, err := os.MkdirTemp(stored, "unpacked-")
		if err != nil {
			return "", 0, fmt.Errorf("unpack: %w", err)
		}
		// The archive itself is removed, as Rumi does it. So it needn't be synced.
		unpacked, err := program(ctx, to, "sh", "-c", "bsdtar -xf ../large.zip && rm ../large.zip")
		if err != nil {
			return "", 0, err
		}
		synced, err := program(ctx, to, "sync", "-f", ".")
		return to, unpacked + synced, err
	}}
	for _, s := range servers {
		upload.pids = append(upload.pids, s.PIDs()...)
	}
	return upload, stop, nil
}

// bareUpload sends an archive over as many hops as an upload takes, in plain TCP, into a file that is synced. Nothing is encrypted, checked or
// unpacked, so no upload can be faster.
func (b *bench) bareUpload(ctx context.Context, archive string) (upload *method, stop func() error, err error) {
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
	upload = &method{pids: []int{first.PID(), last.PID()}, do: func(context.Context) (string, time.Duration, error) {
		file, err := send(archive, first.Address)
		return file, 0, err
	}}
	return upload, func() error { return errors.Join(first.Stop(), last.Stop()) }, nil
}

// send sends a file over TCP to a keepCommand. It returns the name of the file in which that stored it.
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

// put sends a file as the body of a PUT, which must be answered with 201.
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

// staged is the data that an import answers.
type staged struct {
	ID string `json:"staging_id"`
}

// upload imports an archive by upload. It sends the form straight from the file, so that the client needs little memory and processor time.
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

// writeArchive makes an archive of a pack with random files of 1 MiB each, bytes in all, and syncs it. It returns the archive's size.
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
