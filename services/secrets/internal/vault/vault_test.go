package vault

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/tink-crypto/tink-go/v2/tink"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/origin"
)

// home is a folder of secrets and what is beside it.
type home struct {
	dir    string // of the secrets
	audit  string
	cipher tink.AEAD
	logs   *bytes.Buffer
}

func newHome(t testing.TB) *home {
	t.Helper()
	base := t.TempDir()
	return &home{dir: filepath.Join(base, "secrets"), audit: filepath.Join(base, "audit"), cipher: newCipher(t), logs: &bytes.Buffer{}}
}

func newCipher(t testing.TB) tink.AEAD {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets_key")
	if err := keyset.Create(path); err != nil {
		t.Fatal(err)
	}
	cipher, err := keyset.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cipher
}

func (h *home) open(t testing.TB) *Vault {
	t.Helper()
	logger := slog.New(slog.NewJSONHandler(h.logs, nil))
	entries, err := audit.Open(h.audit, "secrets", logger)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(t.Context(), h.dir, h.cipher, entries, logger, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close(); entries.Close() })
	return v
}

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

func (h *home) contents(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(h.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// journal reads every line; one that is no JSON fails the test.
func (h *home) journal(t testing.TB) []line {
	t.Helper()
	var lines []line
	scanner := bufio.NewScanner(bytes.NewReader(h.contents(t, journalName)))
	for scanner.Scan() {
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("journal line %q: %v", scanner.Text(), err)
		}
		lines = append(lines, l)
	}
	return lines
}

// entries reads the audit log of a category.
func (h *home) entries(t testing.TB, category string) string {
	t.Helper()
	return audittest.Text(t, h.audit, category)
}

func set(t testing.TB, v *Vault, key, value string) (created bool) {
	t.Helper()
	created, err := v.Set(t.Context(), key, api.NewValue(value))
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func wantValue(t testing.TB, v *Vault, key, want string) {
	t.Helper()
	got, err := v.Value(t.Context(), key)
	if err != nil || got.Reveal() != want {
		t.Fatalf("value of %s is %q, %v; want %q", key, got.Reveal(), err, want)
	}
}

func wantMissing(t testing.TB, v *Vault, key string) {
	t.Helper()
	if _, err := v.Value(t.Context(), key); !fault.Is(err, fault.KindNotFound) {
		t.Fatalf("value of %s: %v; want not found", key, err)
	}
}

func TestLifeOfASecret(t *testing.T) {
	h := newHome(t)
	v := h.open(t)
	ctx := origin.With(t.Context(), origin.Origin{Actor: "operator"})

	if err := v.Delete(ctx, "TOKEN"); !fault.Is(err, fault.KindNotFound) || fault.Of(err).Message != "Secret not found: TOKEN" {
		t.Fatalf("delete of a key that never was: %v; want not found", err)
	}
	if created, err := v.Set(ctx, "TOKEN", api.NewValue("first-hunter2")); err != nil || !created {
		t.Fatalf("the first set: created %v, %v; want true", created, err)
	}
	born := only(t, v).CreatedAt
	if created, err := v.Set(ctx, "TOKEN", api.NewValue("second-hunter2")); err != nil || created {
		t.Fatalf("the second set: created %v, %v; want false", created, err)
	}
	wantValue(t, v, "TOKEN", "second-hunter2")
	if s := only(t, v); !s.CreatedAt.Equal(born) || s.UpdatedAt.Before(born) || !s.Exists() {
		t.Fatalf("after the second set: %+v, first made %v", s, born)
	}
	wantValue(t, h.open(t), "TOKEN", "second-hunter2") // another process, or a restart

	before := h.contents(t, "TOKEN.json")
	if err := v.Delete(ctx, "TOKEN"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, v, "TOKEN")
	tomb := only(t, v)
	if tomb.Exists() || tomb.DeletedAt.IsZero() || !tomb.CreatedAt.Equal(born) || tomb.UpdatedAt.IsZero() {
		t.Fatalf("the tombstone is %+v, want the time of its deletion and that of its first value", tomb)
	}
	if after := h.contents(t, "TOKEN.json"); bytes.Contains(after, []byte("sealed")) || len(after) >= len(before) {
		t.Fatalf("the tombstone holds bytes of the value: %s", after)
	}
	if err := v.Delete(ctx, "TOKEN"); err != nil {
		t.Fatalf("second delete: %v", err)
	}
	if again := only(t, v); again != tomb {
		t.Fatalf("the second delete changed the tombstone: %+v, was %+v", again, tomb)
	}
	if created, err := v.Set(ctx, "TOKEN", api.NewValue("third-hunter2")); err != nil || !created {
		t.Fatalf("set after delete: created %v, %v", created, err)
	}
	wantValue(t, v, "TOKEN", "third-hunter2")

	var actions []string
	for _, l := range h.journal(t) {
		if l.Key != "TOKEN" || l.Actor != "operator" || l.TS.IsZero() {
			t.Errorf("the journal's line is %+v, want TOKEN's by the operator, with its time", l)
		}
		actions = append(actions, l.Action)
	}
	if want := []string{"set", "set", "delete", "set"}; !slices.Equal(actions, want) {
		t.Errorf("journal has %v, want %v", actions, want)
	}
	if got := h.entries(t, "system"); strings.Count(got, `"secret_set"`) != 3 || strings.Count(got, `"secret_deleted"`) != 1 {
		t.Errorf("the audit entries are %s, want 3 of secret_set and one of secret_deleted", got)
	}
	for what, text := range map[string]string{
		"the journal": string(h.contents(t, journalName)), "the audit log": h.entries(t, "system"),
		"the log": h.logs.String(), "the file": string(h.contents(t, "TOKEN.json")),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s shows a value: %s; want none", what, text)
		}
	}
}

func only(t testing.TB, v *Vault) Secret {
	t.Helper()
	list, err := v.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("list: %+v, %v; want one", list, err)
	}
	return list[0]
}

func TestKeys(t *testing.T) {
	for key, ok := range map[string]bool{
		"A": true, "OPENAI_API_KEY": true, "0": true, "_": true, strings.Repeat("K", 64): true,
		"": false, strings.Repeat("K", 65): false, "a": false, "A-B": false, "A B": false, "A\n": false, "A\x00": false,
		".": false, "..": false, "../A": false, "A/B": false, "%2e%2e": false, "Ａ": false, "Kelvin K": false, "ſ": false,
	} {
		if _, err := ParseKey(key); (err == nil) != ok {
			t.Errorf("ParseKey(%q) = %v, want ok %v", key, err, ok)
		}
	}
}

func TestValues(t *testing.T) {
	v := newHome(t).open(t)
	for name, value := range map[string]string{
		"EMPTY": "", "TEXT": "日本語\n\x00\"", "LARGEST": strings.Repeat("x", MaxValue-2),
		"LARGEST_QUOTED": strings.Repeat(`"`, MaxValue/2-1), "LARGEST_LINES": strings.Repeat("\n", MaxValue/2-1),
		"LARGEST_CONTROL": strings.Repeat("\x01", (MaxValue-2)/6), "LARGEST_WIDE": strings.Repeat("語", (MaxValue-2)/3),
	} {
		set(t, v, name, value)
		wantValue(t, v, name, value)
	}
}

// What the answer of secrets.get has no room for is refused when it is set, not each time it is asked for.
func TestValuesThatNoAnswerHolds(t *testing.T) {
	v := newHome(t).open(t)
	for name, value := range map[string]string{
		"PLAIN": strings.Repeat("x", MaxValue-1), "MEBIBYTE": strings.Repeat("x", 1<<20), "LARGER": strings.Repeat("x", 1<<20+1),
		"QUOTED": strings.Repeat(`"`, MaxValue/2), "LINES": strings.Repeat("\n", 600_000), "BACKSLASHES": strings.Repeat(`\`, 600_000),
		"CONTROL": strings.Repeat("\x01", MaxValue/6+1),
	} {
		_, err := v.Set(t.Context(), name, api.NewValue(value))
		if f := fault.Of(err); err == nil || f.Kind != fault.KindInvalid || !strings.HasPrefix(f.Message, "Value too large (max 1 MB)") {
			t.Errorf("%s, %d bytes: error %v, want Value too large", name, len(value), err)
		}
		wantMissing(t, v, name)
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	h := newHome(t)
	if err := os.Mkdir(h.dir, 0o777); err != nil { // made too open by somebody
		t.Fatal(err)
	}
	v := h.open(t)
	set(t, v, "A", "x")
	for name, want := range map[string]os.FileMode{".": 0o700, "A.json": 0o600, journalName: 0o600, lockName: 0o600} {
		info, err := os.Stat(h.path(name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
}

func TestStrangersInTheFolderAreLeftAlone(t *testing.T) {
	h := newHome(t)
	v := h.open(t)
	set(t, v, "A", "x")
	strangers := []string{"notes.txt", "lower.json", "A.json.bak", ".x.new", ".A.NEW", strings.Repeat("K", 65) + ".json"}
	for _, name := range strangers {
		if err := os.WriteFile(h.path(name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	only(t, h.open(t))
	for _, name := range strangers {
		if _, err := os.Stat(h.path(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestLeftoversAreRemovedAtStart(t *testing.T) {
	h := newHome(t)
	set(t, h.open(t), "A", "kept")
	if err := os.WriteFile(h.path(tempName("A")), []byte(`{"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	v := h.open(t)
	if _, err := os.Stat(h.path(tempName("A"))); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the temporary file: %v; want it gone", err)
	}
	wantValue(t, v, "A", "kept")
}

func TestJournalGoesOnAfterATornLine(t *testing.T) {
	h := newHome(t)
	v := h.open(t)
	set(t, v, "A", "x")
	f, err := os.OpenFile(h.path(journalName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"ts":"2026-`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	set(t, h.open(t), "B", "x")
	lines := strings.Split(strings.TrimSpace(string(h.contents(t, journalName))), "\n")
	if len(lines) != 3 || !strings.Contains(lines[2], `"key":"B"`) {
		t.Fatalf("the journal is %q, want three lines, B's the last", lines)
	}
}

// TestNothingChangesWithoutItsRecords: where journal or audit log can't be written, the call fails and the value stays.
func TestNothingChangesWithoutItsRecords(t *testing.T) {
	for name, spoil := range map[string]func(*Vault){
		"journal": func(v *Vault) { v.journal.Close() },
		"audit":   func(v *Vault) { v.audit = unwritable(t) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			set(t, h.open(t), "A", "old")
			v := h.open(t)
			spoil(v)
			if _, err := v.Set(t.Context(), "A", api.NewValue("new")); err == nil {
				t.Fatal("set succeeded")
			}
			if err := v.Delete(t.Context(), "A"); err == nil {
				t.Fatal("delete succeeded")
			}
			wantValue(t, v, "A", "old")
			if _, err := os.Stat(h.path(tempName("A"))); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the temporary file: %v; want it gone", err)
			}
		})
	}
}

// unwritable is an audit log whose folder is gone and can't be made again.
func unwritable(t *testing.T) *audit.Log {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(dir, "secrets", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return log
}

// TestConcurrentWriters: replicas on one folder never mix their writes, readers always see a whole value, and no two
// of them believe that they created the same key.
func TestConcurrentWriters(t *testing.T) {
	h := newHome(t)
	replicas := []*Vault{h.open(t), h.open(t), h.open(t)}
	const each = 30
	var wg sync.WaitGroup
	created := make([]int, len(replicas))
	for i, v := range replicas {
		wg.Go(func() {
			for range each {
				ok, err := v.Set(context.Background(), "SHARED", api.NewValue(strings.Repeat(string(rune('a'+i)), 5000)))
				if err != nil {
					t.Error(err)
				}
				if ok {
					created[i]++
				}
			}
		})
		wg.Go(func() {
			for range each {
				value, err := v.Value(context.Background(), "SHARED")
				if fault.Is(err, fault.KindNotFound) {
					continue
				}
				if text := value.Reveal(); err != nil || len(text) != 5000 || strings.Trim(text, text[:1]) != "" {
					t.Errorf("read a mixed value of %d bytes, %v", len(text), err)
				}
			}
		})
	}
	wg.Wait()
	if total := created[0] + created[1] + created[2]; total != 1 {
		t.Errorf("created %d times, want once", total)
	}
	if got := len(h.journal(t)); got != each*len(replicas) {
		t.Errorf("journal has %d lines, want %d", got, each*len(replicas))
	}
}

func TestClockSetBack(t *testing.T) {
	h := newHome(t)
	v := h.open(t)
	future := time.Now().UTC().Add(time.Hour)
	sealed, err := seal(h.cipher, "A", api.NewValue("old"))
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := v.prepare(file{Version: formatVersion, Key: "A", CreatedAt: future, UpdatedAt: future, Sealed: sealed})
	if err != nil {
		t.Fatal(err)
	}
	if err := prepared.Commit(); err != nil {
		t.Fatal(err)
	}
	set(t, v, "A", "new")
	wantValue(t, v, "A", "new")
}

// TestStepsAreAllKnown keeps crash_test.go killing at every step there is.
func TestStepsAreAllKnown(t *testing.T) {
	v := newHome(t).open(t)
	seen := map[string]bool{}
	v.onStep = func(step string) { seen[step] = true }
	set(t, v, "A", "x")
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, slices.Sorted(slices.Values(steps))) {
		t.Fatalf("steps are %v, crash_test.go knows %v", got, steps)
	}
}
