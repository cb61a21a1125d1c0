package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

var migrations = fstest.MapFS{
	"00001_items.sql": {Data: []byte(`-- +goose Up
CREATE TABLE items (name TEXT PRIMARY KEY, n BIGINT NOT NULL, at BIGINT NOT NULL, flag INTEGER NOT NULL);
-- +goose Down
DROP TABLE items;
`)},
}

var newer = fstest.MapFS{
	"00001_items.sql": migrations["00001_items.sql"],
	"00002_more.sql": {Data: []byte(`-- +goose Up
CREATE TABLE more (name TEXT PRIMARY KEY);
-- +goose Down
DROP TABLE more;
`)},
}

// The test binary is also the other processes of the tests.
func TestMain(m *testing.M) {
	switch os.Getenv("RUMI_STORE_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "commit":
		os.Exit(childCommit())
	case "count":
		os.Exit(childCount())
	}
}

func childConfig() store.Config {
	return store.Config{
		Dir: os.Getenv("RUMI_STORE_TEST_DIR"), Service: os.Getenv("RUMI_STORE_TEST_SERVICE"), URL: os.Getenv("RUMI_STORE_TEST_URL"),
	}
}

func child(name string, cfg store.Config) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RUMI_STORE_TEST_CHILD="+name, "RUMI_STORE_TEST_DIR="+cfg.Dir,
		"RUMI_STORE_TEST_SERVICE="+cfg.Service, "RUMI_STORE_TEST_URL="+cfg.URL)
	cmd.Stderr = os.Stderr
	return cmd
}

func set(tx *store.Tx, name string, n int64) error {
	_, err := tx.Exec(`INSERT INTO items (name, n, at, flag) VALUES (?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET n = excluded.n`, name, n, time.UnixMicro(0), false)
	return err
}

func get(tx *store.Tx, name string) (n int64, err error) {
	err = tx.QueryRow(`SELECT n FROM items WHERE name = ?`, name).Scan(&n)
	return n, err
}

func mustGet(t *testing.T, db *store.DB, name string) (n int64) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) { n, err = get(tx, name); return err }); err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return n
}

func TestCommittedIsReadByEveryProcess(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		a, b := open(), open()
		if err := a.Tx(t.Context(), func(tx *store.Tx) error { return set(tx, "x", 1) }); err != nil {
			t.Fatal(err)
		}
		if n := mustGet(t, b, "x"); n != 1 {
			t.Errorf("n is %d, want 1", n)
		}
		if err := b.Ping(t.Context()); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
}

func TestFailedFunctionLeavesNothing(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db := open()
		refused := fault.Conflict("no")
		err := db.Tx(t.Context(), func(tx *store.Tx) error { return errors.Join(set(tx, "x", 1), refused) })
		if !errors.Is(err, refused) {
			t.Errorf("got the error %v, want the refusal", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Tx(t.Context(), func(tx *store.Tx) error { _ = set(tx, "x", 1); panic("in the function") })
		}()
		err = db.View(t.Context(), func(tx *store.Tx) error { _, err := get(tx, "x"); return err })
		if !errors.Is(err, store.ErrNoRows) {
			t.Errorf("error is %v, want ErrNoRows", err)
		}
	})
}

func TestViewCannotWrite(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db := open()
		if err := db.View(t.Context(), func(tx *store.Tx) error { return set(tx, "x", 1) }); err == nil {
			t.Error("no error")
		}
	})
}

func TestViewIsOfOneMoment(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db, other := open(), open()
		write := func(n int64) {
			if err := other.Tx(t.Context(), func(tx *store.Tx) error { return set(tx, "x", n) }); err != nil {
				t.Fatal(err)
			}
		}
		write(1)
		err := db.View(t.Context(), func(tx *store.Tx) error {
			before, err := get(tx, "x")
			if err != nil {
				return err
			}
			write(2)
			if after, err := get(tx, "x"); err != nil || after != before {
				t.Errorf("read %d, then %d (%v); want the same in one view", before, after, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestValuesSurvive(t *testing.T) {
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.FixedZone("", 9*3600))
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db := open()
		err := db.Tx(t.Context(), func(tx *store.Tx) error {
			for _, row := range [][]any{{"q?'\"日本\n", int64(1 << 62), at, true}, {"zero", 0, time.Time{}, false}} {
				if _, err := tx.Exec(`INSERT INTO items (name, n, at, flag) VALUES (?, ?, ?, ?)`, row...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = db.View(t.Context(), func(tx *store.Tx) error {
			return tx.Each(func(scan func(...any) error) error {
				var name string
				var n int64
				var when time.Time
				var flag bool
				err := scan(&name, &n, store.Time(&when), &flag)
				got = append(got, fmt.Sprintf("%q %d %s %v", name, n, when.Format(time.RFC3339Nano), flag))
				return err
			}, `SELECT name, n, at, flag FROM items WHERE name <> '?' AND n >= ? ORDER BY n`, 0)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`"zero" 0 0001-01-01T00:00:00Z false`,
			`"q?'\"日本\n" 4611686018427387904 2024-02-29T14:59:59.123456Z true`,
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("read %q, want %q", got, want)
		}
	})
}

func TestTextThatOneDatabaseCannotHoldIsInvalidOnBoth(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db := open()
		for _, text := range []string{"a\x00b", "\xff"} {
			err := db.Tx(t.Context(), func(tx *store.Tx) error { return set(tx, text, 1) })
			if !fault.Is(err, fault.KindInvalid) {
				t.Errorf("write of %q: got %v, want it invalid", text, err)
			}
			err = db.View(t.Context(), func(tx *store.Tx) error { _, err := get(tx, text); return err })
			if !fault.Is(err, fault.KindInvalid) {
				t.Errorf("read of %q: got %v, want it invalid", text, err)
			}
		}
	})
}

// Read-then-write by many: the result shows whether transactions ran as if one after the other.
func TestConcurrentTransactionsLoseNothing(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		dbs := []*store.DB{open(), open()}
		if err := dbs[0].Tx(t.Context(), func(tx *store.Tx) error { return set(tx, "x", 0) }); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var done [8]int64
		for i := range done {
			wg.Go(func() {
				for range 20 {
					if err := increment(t.Context(), dbs[i%2], "x"); err == nil {
						done[i]++
					} else if !fault.Is(err, fault.KindUnavailable) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		total := int64(0)
		for _, n := range done {
			total += n
		}
		if n := mustGet(t, dbs[1], "x"); n != total || total < 80 {
			t.Errorf("counted %d, acknowledged %d of 160; want the same, 80 at least", n, total)
		}
	})
}

func increment(ctx context.Context, db *store.DB, name string) error {
	return db.Tx(ctx, func(tx *store.Tx) error {
		n, err := get(tx, name)
		if err != nil && !errors.Is(err, store.ErrNoRows) {
			return err
		}
		return set(tx, name, n+1)
	})
}

func TestMigrations(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		if err := open().Tx(t.Context(), func(tx *store.Tx) error { return set(tx, "x", 7) }); err != nil {
			t.Fatal(err)
		}
		if n := mustGet(t, open(), "x"); n != 7 {
			t.Errorf("n is %d after opening again", n)
		}
	})
	t.Run("newer database is refused", func(t *testing.T) {
		cfg := store.Config{Dir: t.TempDir(), Service: "test"}
		db, err := store.Open(t.Context(), cfg, newer)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), cfg, migrations); err == nil {
			t.Error("no error")
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "damaged.db"), []byte("this is no database, whatever its name says it is"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  store.Config
		kind fault.Kind
	}{
		"service as a path":  {store.Config{Dir: dir, Service: "../x"}, fault.KindInternal},
		"newline in service": {store.Config{Dir: dir, Service: "x\n"}, fault.KindInternal},
		"folder is a file":   {store.Config{Dir: filepath.Join(dir, "file"), Service: "x"}, fault.KindInternal},
		"damaged file":       {store.Config{Dir: dir, Service: "damaged"}, fault.KindInternal},
		"another database":   {store.Config{Service: "x", URL: "mysql://u:p@127.0.0.1/x"}, fault.KindInternal},
		"nobody there":       {store.Config{Service: "x", URL: "postgres://u:p@127.0.0.1:1/x"}, fault.KindUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := store.Open(t.Context(), c.cfg, migrations)
			if err == nil || fault.Of(err).Kind != c.kind {
				t.Errorf("got the error %v, want the kind %v", err, c.kind)
			}
		})
	}
}

func TestFilesAreForOwnerAndGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	defer syscall.Umask(syscall.Umask(0o027))
	db, err := store.Open(t.Context(), store.Config{Dir: dir, Service: "test"}, migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s has the mode %v (%v), want 0640", e.Name(), info.Mode(), err)
		}
	}
}

// childCount increments a counter that other processes increment too, saying how often it was told that it did. All the
// while it looks for changes, which must not cost SQLite its locks.
func childCount() int {
	db, err := store.Open(context.Background(), childConfig(), migrations)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for changes := db.Changes(); ; time.Sleep(100 * time.Microsecond) {
			changes.Pending()
		}
	}()
	done := 0
	for range 50 {
		if increment(context.Background(), db, "shared") == nil {
			done++
		}
	}
	fmt.Println(done)
	return 0
}

func bothDatabases(t *testing.T, run func(t *testing.T, cfg store.Config)) {
	t.Run("sqlite", func(t *testing.T) { run(t, store.Config{Dir: t.TempDir(), Service: "test"}) })
	t.Run("postgres", func(t *testing.T) { run(t, storetest.Postgres(t)) })
}

func openConfig(t *testing.T, cfg store.Config) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), cfg, migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestProcessesThatStartTogetherShareADatabase(t *testing.T) {
	bothDatabases(t, func(t *testing.T, cfg store.Config) {
		var wg sync.WaitGroup
		var total [4]int64
		for i := range total {
			wg.Go(func() {
				out, err := child("count", cfg).Output()
				if err != nil {
					t.Errorf("got %v, want no error", err)
					return
				}
				total[i], _ = strconv.ParseInt(string(out[:len(out)-1]), 10, 64)
			})
		}
		wg.Wait()
		want := total[0] + total[1] + total[2] + total[3]
		if n := mustGet(t, openConfig(t, cfg), "shared"); n != want || want < 100 {
			t.Errorf("counted %d, acknowledged %v; want their sum, 100 at least", n, total)
		}
	})
}

// childCommit says a number after the transaction that wrote it, until it is killed.
func childCommit() int {
	db, err := store.Open(context.Background(), childConfig(), migrations)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	start, _ := strconv.ParseInt(os.Getenv("RUMI_STORE_TEST_FROM"), 10, 64)
	for n := start; ; n++ {
		if err := db.Tx(context.Background(), func(tx *store.Tx) error { return set(tx, fmt.Sprint(n), n) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(n)
	}
}

func TestKilledProcessLosesNothingItAcknowledged(t *testing.T) {
	bothDatabases(t, func(t *testing.T, cfg store.Config) {
		acknowledged := int64(-1)
		for range 5 {
			cmd := child("commit", cfg)
			cmd.Env = append(cmd.Env, fmt.Sprint("RUMI_STORE_TEST_FROM=", acknowledged+1))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			wanted := 1 + rand.IntN(40)
			lines := bufio.NewScanner(out)
			for seen := 0; lines.Scan(); seen++ {
				if acknowledged, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
					t.Fatal(err)
				}
				if seen == wanted {
					_ = cmd.Process.Kill()
				}
			}
			_ = cmd.Wait()
		}
		if acknowledged < 5 {
			t.Fatalf("%d writes were acknowledged, want 5 at least", acknowledged)
		}
		db := openConfig(t, cfg)
		for n := range acknowledged + 1 {
			if got := mustGet(t, db, fmt.Sprint(n)); got != n {
				t.Errorf("%d reads %d, want %d", n, got, n)
			}
		}
	})
}

func BenchmarkTx(b *testing.B) {
	db, err := store.Open(b.Context(), store.Config{Dir: b.TempDir(), Service: "test"}, migrations)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	b.Run("write", func(b *testing.B) {
		for i := range b.N {
			if err := db.Tx(b.Context(), func(tx *store.Tx) error { return set(tx, fmt.Sprint(i%1000), int64(i)) }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := db.View(b.Context(), func(tx *store.Tx) error { _, err := get(tx, "0"); return err }); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
