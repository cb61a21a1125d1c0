package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/rumi-ai/rumi/libs/flock"
)

// Connections of one process to its SQLite file. SQLite lets one connection write at a time. So a process has one for writing, and
// its transactions wait for it in a queue; several connections would poll for the lock, and wait longer and without order.
const (
	sqliteWriters = 1
	sqliteReaders = 4
)

// sqliteBusy is how long, in milliseconds, a connection waits for another process's lock before the transaction is
// tried again.
const sqliteBusy = "5000"

type sqliteDialect struct{}

func openSQLite(ctx context.Context, cfg Config, migrations fs.FS) (_ *DB, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(filepath.Join(cfg.Dir, cfg.Service+".db"))
	if err != nil {
		return nil, err
	}
	lock := flock.New(path + ".lock")
	if err := lock.Lock(ctx); err != nil {
		return nil, err
	}
	defer lock.Close()

	db := &DB{service: cfg.Service, dialect: sqliteDialect{}, wal: path + "-wal"}
	defer func() {
		if err != nil {
			_ = db.Close()
		}
	}()
	// The journal mode is kept in the file, and to set it no other process may use the file. The lock keeps out those that open it;
	// in those that have it open already the mode is set.
	if db.write, err = sql.Open("sqlite", sqliteDSN(path, "immediate", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)")); err != nil {
		return nil, err
	}
	db.read = db.write
	db.write.SetMaxOpenConns(sqliteWriters)
	if err := migrate(ctx, goose.DialectSQLite3, db.write, migrations); err != nil {
		return nil, err
	}
	read, err := sql.Open("sqlite", sqliteDSN(path, "deferred", "query_only(1)"))
	if err != nil {
		return nil, err
	}
	db.read = read
	db.read.SetMaxOpenConns(sqliteReaders)
	db.read.SetMaxIdleConns(sqliteReaders)
	return db, db.read.PingContext(ctx)
}

// sqliteDSN names the file, how transactions begin (lock: deferred or immediate) and what each connection sets first.
func sqliteDSN(path, lock string, pragmas ...string) string {
	q := url.Values{"_txlock": {lock}, "_pragma": append([]string{"busy_timeout(" + sqliteBusy + ")"}, pragmas...)}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func (sqliteDialect) rebind(query string) string { return query }

func (sqliteDialect) retryable(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		primary := e.Code() & 0xff
		return primary == sqlite3.SQLITE_BUSY || primary == sqlite3.SQLITE_LOCKED
	}
	return false
}

func (sqliteDialect) unavailable(error) bool { return false }

func (sqliteDialect) full(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_FULL
}

func (sqliteDialect) writeOptions() *sql.TxOptions { return nil }

func (sqliteDialect) readOptions() *sql.TxOptions { return &sql.TxOptions{ReadOnly: true} }
