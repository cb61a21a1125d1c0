package main

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// asProcess makes the test binary run pack-registry itself, at the address that it holds.
const asProcess = "PACK_REGISTRY_TEST_ADDRESS"

func TestMain(m *testing.M) {
	if address := os.Getenv(asProcess); address != "" {
		if err := process(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func process(address string) error {
	api, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	rt, err := service.Start(context.Background(), "pack-registry", build, service.Options{Environ: os.Environ(), API: api, Admin: admin, Logs: os.Stderr})
	if err != nil {
		return err
	}
	return rt.Wait(context.Background())
}

// bench is a home with pack-registry in a process of its own.
type bench struct {
	*servicetest.Suite
	b      *testing.B
	client *http.Client
	pid    int
}

func startBench(b *testing.B, s *servicetest.Suite) *bench {
	address := s.Release("pack-registry")
	pid := run(b, exec.Command(os.Args[0]), append(s.Environ("pack-registry"), asProcess+"="+address, "RUMI_ECOSYSTEM="+s.Ecosystem(), "RUMI_LOG_LEVEL=error"))
	awaitListener(b, address)
	return &bench{s, b, s.Client("gateway", "pack-registry"), pid}
}

// run starts a process that ends with the benchmark.
func run(b *testing.B, cmd *exec.Cmd, environ []string) (pid int) {
	b.Helper()
	// What this test was told, where PostgreSQL is, is no setting of a service.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "RUMI_") }), environ...)
	cmd.Stderr = b.Output()
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func awaitListener(b *testing.B, address string) {
	b.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
	}
}

// call sends a request and gives the data of the answer, which must be a success.
func (w *bench) call(method, path, contentType string, body io.Reader) map[string]any {
	w.b.Helper()
	r, err := http.NewRequestWithContext(w.b.Context(), method, "https://pack-registry"+path, body)
	must(w.b, err)
	r.Header.Set("Content-Type", contentType)
	response, err := w.client.Do(r)
	must(w.b, err)
	defer response.Body.Close()
	var a answer
	must(w.b, json.NewDecoder(response.Body).Decode(&a))
	if !a.Success {
		w.b.Fatalf("%s %s: %+v; want a.Success", method, path, a)
	}
	return a.Data
}

// memory is a field of the process's /proc/PID/status, in MiB: VmRSS, VmHWM for the most that it has been, or RssFile for the part of it that is files.
func (w *bench) memory(field string) float64 {
	w.b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", w.pid))
	must(w.b, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			var kib float64
			_, err := fmt.Sscanf(rest, "%f kB", &kib)
			must(w.b, err)
			return kib / 1024
		}
	}
	w.b.Fatalf("no %s", field)
	return 0
}

// BenchmarkImport500MiB takes in a pack of nearly the largest size, with contents that don't compress, over mutual TLS: sent (or
// copied), judged, unpacked, synced, recorded. Each is preceded by what the disk can do with the same bytes: x-dd and x-cp are how many times as
// long the import takes as `dd conv=fdatasync` of the archive and as `cp -r` of its files with a sync of the file system. peak-MiB is the
// most memory that the process ever held, idle-MiB what it held before, both without the pages of its program.
func BenchmarkImport500MiB(b *testing.B) {
	for name, of := range map[string]func(w *bench) (contentType string, body io.Reader){
		"upload": func(w *bench) (string, io.Reader) {
			f, err := os.Open(filepath.Join(w.Home, "user_data/import/large.zip"))
			must(w.b, err)
			w.b.Cleanup(func() { f.Close() })
			return "multipart/form-data; boundary=x", upload(f)
		},
		"archive by path": func(*bench) (string, io.Reader) {
			return "application/json", strings.NewReader(`{"path": "user_data/import/large.zip"}`)
		},
		"folder by path": func(*bench) (string, io.Reader) {
			return "application/json", strings.NewReader(`{"path": "user_data/import/large"}`)
		},
	} {
		b.Run(name, func(b *testing.B) {
			w := startBench(b, servicetest.New(b, "pack-registry"))
			in := filepath.Join(w.Home, "user_data/import")
			must(b, os.MkdirAll(in, 0o755))
			archive, unpacked := filepath.Join(in, "large.zip"), filepath.Join(in, "large")
			size := writeArchive(b, archive, 499, 1<<20)
			w.call("POST", "/api/packs/import", "multipart/form-data; boundary=x", upload(strings.NewReader(archived(b, "small", "1"))))
			first := w.call("POST", "/api/packs/import", "application/json", strings.NewReader(`{"path": "user_data/import/large.zip"}`))
			must(b, os.Rename(filepath.Join(w.Home, first["staging_dir"].(string), "payload/large"), unpacked))
			b.SetBytes(size)
			idle := w.memory("VmRSS") - w.memory("RssFile")
			var dd, cp, importing time.Duration
			for b.Loop() {
				b.StopTimer()
				dd += shell(b, "dd if="+archive+" of="+archive+".copy bs=1M conv=fdatasync status=none", "rm "+archive+".copy")
				cp += shell(b, "cp -r "+unpacked+" "+unpacked+".copy && sync -f "+unpacked+".copy", "rm -r "+unpacked+".copy")
				contentType, body := of(w)
				began := time.Now()
				b.StartTimer()
				imported := w.call("POST", "/api/packs/import", contentType, body)
				b.StopTimer()
				importing += time.Since(began)
				must(b, os.RemoveAll(filepath.Join(w.Home, imported["staging_dir"].(string))))
				b.StartTimer()
			}
			b.ReportMetric(float64(importing)/float64(dd), "x-dd")
			b.ReportMetric(float64(importing)/float64(cp), "x-cp")
			b.ReportMetric(idle, "idle-MiB")
			b.ReportMetric(w.memory("VmHWM")-w.memory("RssFile"), "peak-MiB")
		})
	}
}

// shell says how long a command takes, and cleans up after it.
func shell(b *testing.B, command, cleanUp string) time.Duration {
	b.Helper()
	began := time.Now()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", command, err, out)
	}
	took := time.Since(began)
	if out, err := exec.Command("sh", "-c", cleanUp).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", cleanUp, err, out)
	}
	return took
}

// upload is a form with one file in it.
func upload(content io.Reader) io.Reader {
	r, w := io.Pipe()
	go func() {
		form := multipart.NewWriter(w)
		err := form.SetBoundary("x")
		if err == nil {
			var part io.Writer
			if part, err = form.CreateFormFile("file", "p.zip"); err == nil {
				_, err = io.CopyBuffer(struct{ io.Writer }{part}, struct{ io.Reader }{content}, make([]byte, 256<<10))
			}
		}
		if err == nil {
			err = form.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

func writeArchive(b *testing.B, name string, files int, size int64) int64 {
	b.Helper()
	f, err := os.Create(name)
	must(b, err)
	defer f.Close()
	z := zip.NewWriter(f)
	descriptor, err := z.Create("large/ecosystem.json")
	must(b, err)
	_, err = io.WriteString(descriptor, `{"pack_id": "large", "pack_identity": "github:a/large"}`)
	must(b, err)
	for i := range files {
		entry, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("large/data/%03d.bin", i), Method: zip.Store})
		must(b, err)
		_, err = io.CopyN(entry, rand.Reader, size)
		must(b, err)
	}
	must(b, z.Close())
	info, err := f.Stat()
	must(b, err)
	must(b, f.Sync())
	return info.Size()
}

// BenchmarkScan200Packs is pack-registry's share of design.md's number: POST /api/packs/scan of 200 packs of 50 files, over mutual
// TLS, with an approval that answers at once. Approval's share is its BenchmarkRefresh200Packs; the two go on at the same time.
func BenchmarkScan200Packs(b *testing.B) {
	s := start(b)
	w := &bench{s.Suite, b, s.client, os.Getpid()}
	fill(w)
	for b.Loop() {
		if found := w.call("POST", "/api/packs/scan", "application/json", nil); found["scanned"] != 200.0 {
			b.Fatalf("scanned %v; want scanned 200", found["scanned"])
		}
	}
}

// fill makes 200 packs of 50 files.
func fill(w *bench) {
	w.b.Helper()
	for p := range 200 {
		id := fmt.Sprintf("p%03d", p)
		dir := filepath.Join(w.Ecosystem(), id, "backend")
		must(w.b, os.MkdirAll(dir, 0o755))
		must(w.b, os.WriteFile(filepath.Join(dir, "ecosystem.json"), fmt.Appendf(nil, `{"pack_id": %q, "pack_identity": "github:a/%s", "version": "1.0"}`, id, id), 0o644))
		for f := range 49 {
			must(w.b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("m%02d.py", f)), fmt.Appendf(nil, "# %s %d\n%s", id, f, strings.Repeat("x = 1\n", 700)), 0o644))
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
