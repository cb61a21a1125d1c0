// Package storetest runs a suite of store tests on both databases.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"io/fs"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// Run runs suite as the subtests "sqlite" and "postgres". Each has an empty database of its own, which open opens:
// calling it again gives what another process would have. Databases are closed and removed when the test ends.
func Run(t *testing.T, migrations fs.FS, suite func(t *testing.T, open func() *store.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		suite(t, opener(t, store.Config{Dir: t.TempDir(), Service: "test"}, migrations))
	})
	t.Run("postgres", func(t *testing.T) {
		suite(t, opener(t, Postgres(t), migrations))
	})
}

// Postgres names a schema of its own for t, dropped when t ends. Where no PostgreSQL is named, t is skipped; see testenv.Database.
func Postgres(t *testing.T) store.Config {
	t.Helper()
	url := testenv.Database(t)
	schema := "test_" + strings.ToLower(rand.Text())
	t.Cleanup(func() {
		db, err := sql.Open("pgx", url)
		if err == nil {
			defer db.Close()
			_, err = db.ExecContext(context.Background(), `DROP SCHEMA IF EXISTS "`+schema+`" CASCADE`)
		}
		if err != nil {
			t.Errorf("drop schema: %v", err)
		}
	})
	return store.Config{Service: schema, URL: url}
}

func opener(t *testing.T, cfg store.Config, migrations fs.FS) func() *store.DB {
	return func() *store.DB {
		t.Helper()
		db, err := store.Open(context.Background(), cfg, migrations)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return db
	}
}
