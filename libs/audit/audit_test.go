package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
	"go.opentelemetry.io/otel/trace"
)

// The test binary is also the other processes of the tests: RUMI_AUDIT_TEST_CHILD says which.
func TestMain(m *testing.M) {
	switch child := os.Getenv("RUMI_AUDIT_TEST_CHILD"); child {
	case "":
		os.Exit(m.Run())
	case "append":
		os.Exit(childAppend(os.Getenv("RUMI_AUDIT_TEST_DIR")))
	case "full":
		os.Exit(childFullDisk(os.Getenv("RUMI_AUDIT_TEST_DIR")))
	default:
		panic(child)
	}
}

func child(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RUMI_AUDIT_TEST_CHILD="+name, "RUMI_AUDIT_TEST_DIR="+dir)
	return cmd
}

func open(t testing.TB, dir string) *audit.Log {
	t.Helper()
	log, err := audit.Open(dir, "approval", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
	return log
}

// lines reads a file of the log; every line must be one JSON object.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []map[string]any
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 64<<10)
	for sc.Scan() {
		var entry map[string]any
		if err := json.Unmarshal(sc.Bytes(), &entry); err != nil {
			t.Fatalf("line %d of %s: %v: %q", len(out)+1, path, err, sc.Text())
		}
		out = append(out, entry)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func today(dir, category string) string {
	return filepath.Join(dir, category+"_"+time.Now().UTC().Format(time.DateOnly)+".jsonl")
}

func TestEntryHasTheFieldsOfTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := open(t, dir)
		ctx := origin.With(t.Context(), origin.Origin{RequestID: "req-1", Actor: "operator"})
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3},
		}))
		time.Sleep(1500 * time.Millisecond) // the bubble's clock starts on 2000-01-01
		err := log.Write(ctx, audit.Entry{
			Category: audit.Approval, Severity: audit.Warning, Action: "pack_rejected", OwnerPack: "weather",
			Details: map[string]any{"digest": "sha256:00"}, Error: "e", RejectionReason: "no\nnew \"line\" <b>",
		})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "approval_2000-01-01.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		const want = `{"ts":"2000-01-01T00:00:01.500000Z","category":"approval","severity":"warning","action":"pack_rejected",` +
			`"success":false,"owner_pack":"weather","details":{"digest":"sha256:00"},"error":"e",` +
			`"rejection_reason":"no\nnew \"line\" <b>","request_id":"req-1","trace_id":"01020000000000000000000000000000",` +
			`"actor":"operator","service":"approval"}` + "\n"
		if string(raw) != want {
			t.Errorf("line is\n%swant\n%s", raw, want)
		}
	})
}

func TestDetailsAreAlwaysAnObject(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Write(t.Context(), audit.Entry{Category: audit.System, Action: "start", Success: true}); err != nil {
		t.Fatal(err)
	}
	entry := lines(t, today(dir, "system"))[0]
	if d, ok := entry["details"].(map[string]any); !ok || len(d) != 0 {
		t.Errorf("the details are %v, want an empty object", entry["details"])
	}
	if entry["actor"] != "system" {
		t.Errorf("actor without an origin is %v", entry["actor"])
	}
}

func TestFilesAreReadableByTheGroupOnly(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "audit")
	if err := open(t, dir).Write(t.Context(), audit.Entry{Category: audit.Network, Action: "network_request"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o750 | fs.ModeDir, today(dir, "network"): 0o640} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: the mode is %v, %v; want %v", path, st.Mode(), err, want)
		}
	}
}

func TestRefusedEntriesLeaveNoTrace(t *testing.T) {
	dir := t.TempDir()
	log := open(t, dir)
	for name, entry := range map[string]audit.Entry{
		"no category":      {Action: "x"},
		"unknown category": {Category: audit.System + 1, Action: "x"},
		"no action":        {Category: audit.Security},
		"details not JSON": {Category: audit.Security, Action: "x", Details: map[string]any{"n": math.NaN()}},
	} {
		if err := log.Write(t.Context(), entry); err == nil {
			t.Errorf("%s: the write succeeds, want an error", name)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if content, err := os.ReadFile(filepath.Join(dir, f.Name())); err != nil || len(content) > 0 {
			t.Errorf("%s has %q, %v; want nothing", f.Name(), content, err)
		}
	}
}

// Each category has a file of the day, written to or not: the commands of the operations guide read any of them at any time.
func TestEveryCategoryHasAFileOfTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := open(t, dir)
		all := func(day string) {
			t.Helper()
			for _, category := range []string{"flow_execution", "modifier_application", "python_file_call", "approval", "permission", "network", "security", "system"} {
				if st, err := os.Stat(filepath.Join(dir, category+"_"+day+".jsonl")); err != nil || st.Mode() != 0o640 {
					t.Errorf("%s of %s: %v, %v; want a file of mode 0640", category, day, st, err)
				}
			}
		}
		all("2000-01-01")
		time.Sleep(24 * time.Hour)
		if err := log.Write(t.Context(), audit.Entry{Category: audit.System, Action: "x"}); err != nil {
			t.Fatal(err)
		}
		all("2000-01-02")
	})
}

// What rotates logs renames the file, compresses it and removes it: an entry after the rename is in a new file of the old name.
func TestRenamedFileIsLeft(t *testing.T) {
	dir := t.TempDir()
	log := open(t, dir)
	write := func(action string) {
		t.Helper()
		if err := log.Write(t.Context(), audit.Entry{Category: audit.Security, Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	name := today(dir, "security")
	for _, action := range []string{"first", "second", "third"} {
		write(action)
		if got := lines(t, name); len(got) != 1 || got[0]["action"] != action {
			t.Errorf("the file has %v, want %s alone", got, action)
		}
		if err := os.Rename(name, name+"."+action); err != nil {
			t.Fatal(err)
		}
		if action == "second" { // what rotates may make the new file itself
			if err := os.WriteFile(name, nil, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, action := range []string{"first", "second", "third"} {
		if got := lines(t, name+"."+action); len(got) != 1 || got[0]["action"] != action {
			t.Errorf("the renamed file has %v, want %s alone", got, action)
		}
	}
}

func TestFileFollowsTheDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := open(t, dir)
		write := func() {
			if err := log.Write(t.Context(), audit.Entry{Category: audit.Security, Action: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(24*time.Hour - time.Nanosecond)
		write()
		time.Sleep(time.Nanosecond)
		write()
		time.Sleep(48 * time.Hour)
		write()
		for day, ts := range map[string]string{
			"2000-01-01": "2000-01-01T23:59:59.999999Z", "2000-01-02": "2000-01-02T00:00:00.000000Z",
			"2000-01-04": "2000-01-04T00:00:00.000000Z",
		} {
			got := lines(t, filepath.Join(dir, "security_"+day+".jsonl"))
			if len(got) != 1 || got[0]["ts"] != ts {
				t.Errorf("the file of %s holds %v, want one entry of %s", day, got, ts)
			}
		}
	})
}

func TestLongEntriesAreCutAndStayJSON(t *testing.T) {
	many := map[string]any{}
	for i := range 5000 {
		many[fmt.Sprintf("key-%d", i)] = strings.Repeat("v", 40)
	}
	deep := any("end")
	for range 3000 {
		deep = map[string]any{strings.Repeat("k", 30): deep}
	}
	cases := map[string]audit.Entry{
		"text":         {Details: map[string]any{"kept": "yes", "long": strings.Repeat("日本", 50_000)}},
		"control":      {Details: map[string]any{"kept": "yes", "long": strings.Repeat("\x00\n", 50_000)}},
		"not UTF-8":    {Details: map[string]any{"kept": "yes", "long": strings.Repeat("\xff", 100_000)}},
		"list":         {Details: map[string]any{"kept": "yes", "list": make([]string, 100_000)}},
		"long list":    {Details: map[string]any{"kept": "yes", "list": strings.Split(strings.Repeat("packages/module.py,", 9000), ",")}},
		"many keys":    {Details: many},
		"deep":         {Details: map[string]any{"d": deep}},
		"reason":       {RejectionReason: strings.Repeat("\x01", 200_000), Details: map[string]any{"kept": "yes"}},
		"all texts":    {OwnerPack: strings.Repeat("\x01", 200_000), Error: strings.Repeat("\x01", 200_000), RejectionReason: strings.Repeat("\x01", 200_000)},
		"just fitting": {Error: strings.Repeat("e", 65_000), Details: map[string]any{"kept": "yes"}},
	}
	for name, entry := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			entry.Category, entry.Action = audit.Network, "network_request"
			if err := open(t, dir).Write(t.Context(), entry); err != nil {
				t.Fatal(err)
			}
			got := lines(t, today(dir, "network"))
			details, _ := got[0]["details"].(map[string]any)
			if _, had := entry.Details["kept"]; had && details["kept"] != "yes" {
				t.Errorf("short detail is gone: %v", details)
			}
			if details["truncated"] != true && name != "just fitting" {
				t.Errorf("the details %v aren't marked as truncated", details)
			}
		})
	}
}

const (
	processes = 4
	each      = 500
)

func childAppend(dir string) int {
	log, err := audit.Open(dir, "egress-proxy", slog.New(slog.DiscardHandler))
	if err != nil {
		return 1
	}
	var wg sync.WaitGroup
	failed := make(chan error, each)
	for i := range each {
		wg.Go(func() {
			err := log.Write(context.Background(), audit.Entry{Category: audit.Security, Action: "x", Details: map[string]any{
				"pid": os.Getpid(), "i": i, "pad": strings.Repeat("p", 3*i%20_000),
			}})
			if err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	return len(failed)
}

func TestProcessesShareAFile(t *testing.T) {
	dir := t.TempDir()
	var children []*exec.Cmd
	for range processes {
		cmd := child(t, "append", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
	}
	for _, cmd := range children {
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	}
	seen := map[string]bool{}
	for _, entry := range lines(t, today(dir, "security")) {
		d := entry["details"].(map[string]any)
		seen[fmt.Sprint(d["pid"], d["i"])] = true
	}
	if len(seen) != processes*each {
		t.Errorf("%d different lines, want %d", len(seen), processes*each)
	}
}

// childFullDisk makes writes fail the way a full disk does, half a line included: by a limit on the file's size.
func childFullDisk(dir string) int {
	log, err := audit.Open(dir, "approval", slog.New(slog.DiscardHandler))
	if err != nil {
		return 1
	}
	write := func(action string) error {
		return log.Write(context.Background(), audit.Entry{Category: audit.Approval, Action: action})
	}
	if write("before") != nil {
		return 2
	}
	st, err := os.Stat(filepath.Join(dir, dirNames(dir)[0]))
	if err != nil {
		return 3
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit) != nil {
		return 4
	}
	small := limit
	small.Cur = uint64(st.Size()) + 10
	if syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small) != nil {
		return 5
	}
	for range 2 {
		if err := write("lost"); !errors.Is(err, syscall.EFBIG) {
			return 6
		}
	}
	if syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit) != nil {
		return 7
	}
	if write("after") != nil {
		return 8
	}
	return 0
}

func dirNames(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFullDiskFailsTheCallAndSparesLaterLines(t *testing.T) {
	dir := t.TempDir()
	if err := child(t, "full", dir).Run(); err != nil {
		t.Fatalf("child: %v", err)
	}
	raw, err := os.ReadFile(today(dir, "approval"))
	if err != nil {
		t.Fatal(err)
	}
	got := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if len(got) != 3 || !bytes.Contains(got[0], []byte(`"before"`)) || json.Valid(got[1]) || !bytes.Contains(got[2], []byte(`"after"`)) {
		t.Fatalf("the file is\n%s\nwant three lines, the torn one between before and after", raw)
	}
	if !json.Valid(got[0]) || !json.Valid(got[2]) {
		t.Errorf("a whole line is damaged:\n%s", raw)
	}
}

func TestHalfALineOfADeadProcessIsEndedFirst(t *testing.T) {
	dir := t.TempDir()
	path := today(dir, "system")
	if err := os.WriteFile(path, []byte(`{"ts":"2000`), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Write(t.Context(), audit.Entry{Category: audit.System, Action: "start"}); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(path)
	if got := bytes.Split(raw, []byte("\n")); len(got) != 3 || !json.Valid(got[1]) {
		t.Errorf("the file is\n%s\nwant three lines, the torn one ended before the next", raw)
	}
}

func TestRemovedFileIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	log := open(t, dir)
	for range 2 {
		if err := log.Write(t.Context(), audit.Entry{Category: audit.System, Action: "start"}); err != nil {
			t.Fatal(err)
		}
		if got := lines(t, today(dir, "system")); len(got) != 1 {
			t.Fatalf("the log has %d lines, want 1", len(got))
		}
		if err := os.Remove(today(dir, "system")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLinkAtTheFilesPlaceIsRefused(t *testing.T) {
	dir, target := t.TempDir(), filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, today(dir, "security")); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Write(t.Context(), audit.Entry{Category: audit.Security, Action: "x"}); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a write through a link: got %v, want ELOOP", err)
	}
}

func TestOpenNeedsAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(path, "approval", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
