// Package store keeps a service's state in SQLite, a file per service, or in PostgreSQL, a schema per service.
//
// One SQL text serves both: `?` placeholders, and the types TEXT, BIGINT and INTEGER. A bool is stored as INTEGER 0 or
// 1, a time.Time as BIGINT microseconds since 1970 (the zero time as 0; read it back with Time). What Tx committed is
// on the disk when Tx returns. Several processes may have the same database open.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
)

// ErrNoRows is the error of Row.Scan when there is no row.
var ErrNoRows = sql.ErrNoRows

// Config says where the state lies.
type Config struct {
	Dir     string // the folder of the SQLite files, made (0750) when missing
	Service string // names the file <Dir>/<service>.db, and the schema with _ for -
	URL     string // postgres://…; "" is SQLite

	Metrics prometheus.Registerer // where the durations of transactions are registered; nil for nowhere
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	service string // whose database it is
	write   *sql.DB
	read    *sql.DB
	dialect dialect
	wal     string // path of SQLite's write-ahead log, "" for PostgreSQL; see Changes
	took    operations
	system  string // OpenTelemetry's name of the database
}

// dialect is the part that differs between the two databases.
type dialect interface {
	rebind(query string) string
	retryable(err error) bool   // another transaction was in the way: the same one again may succeed
	unavailable(err error) bool // the database doesn't answer
	full(err error) bool        // there is no space left for what the transaction writes
	writeOptions() *sql.TxOptions
	readOptions() *sql.TxOptions
}

var serviceName = regexp.MustCompile(`\A[a-z][a-z0-9_-]{0,47}\z`)

// Open opens the database, making it when it is missing, and brings it to the newest of migrations, which hold goose
// files (00001_name.sql) at their root. Of several processes that start at once, one migrates and the others wait.
// A database that doesn't answer is a fault of KindUnavailable.
func Open(ctx context.Context, cfg Config, migrations fs.FS) (*DB, error) {
	if !serviceName.MatchString(cfg.Service) {
		return nil, fmt.Errorf("open store: bad service name %q", cfg.Service)
	}
	open, system := openSQLite, "sqlite"
	if cfg.URL != "" {
		open, system = openPostgres, "postgresql"
	}
	db, err := open(ctx, cfg, migrations)
	if err != nil {
		return nil, fmt.Errorf("open store of %s: %w", cfg.Service, err)
	}
	db.took, db.system = newOperations(cfg.Metrics, system), system
	return db, nil
}

// Close closes the database. Transactions that still run fail.
func (db *DB) Close() error {
	var errs []error
	if db.read != db.write {
		errs = append(errs, db.read.Close())
	}
	errs = append(errs, db.write.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Ping is nil if the database answers; for readiness.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.read.PingContext(ctx); err != nil {
		return fmt.Errorf("ping store: %w", db.classify(err))
	}
	return nil
}

// maxTries bounds how often a transaction is run that conflicts with others, with pauses of up to maxPause between. The pauses are
// random: two processes that conflict would do so again after equal ones.
const (
	maxTries = 12
	maxPause = 200 * time.Millisecond
)

// Tx runs fn in a read-write transaction, as if no other ran at the same time, and commits when fn returns nil. fn may
// run several times (another process was in the way), so it must change nothing but the database and its own results,
// and must not call Tx itself. An error of fn is returned as it is; a database that is busy for too long or doesn't
// answer is a fault of KindUnavailable.
func (db *DB) Tx(ctx context.Context, fn func(tx *Tx) error) (err error) {
	defer observe(ctx, db.took.write, time.Now())
	ctx, end := db.step(ctx)
	defer func() { end(err) }()
	return db.run(ctx, db.write, db.dialect.writeOptions(), fn)
}

// View runs fn in a read-only transaction: all that fn reads is of one moment. Errors are as with Tx.
func (db *DB) View(ctx context.Context, fn func(tx *Tx) error) error {
	defer observe(ctx, db.took.read, time.Now())
	return db.run(ctx, db.read, db.dialect.readOptions(), fn)
}

// run runs fn in transactions of pool until one succeeds, fails for a reason that another try wouldn't mend, or maxTries are over.
func (db *DB) run(ctx context.Context, pool *sql.DB, opts *sql.TxOptions, fn func(tx *Tx) error) error {
	pause := time.Millisecond
	for try := 1; ; try++ {
		err := db.once(ctx, pool, opts, fn)
		if err == nil {
			return nil
		}
		if try == maxTries || !db.dialect.retryable(err) {
			return db.classify(err)
		}
		select {
		case <-ctx.Done():
			return db.classify(errors.Join(ctx.Err(), err))
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, maxPause)
		}
	}
}

// once runs fn in one transaction.
func (db *DB) once(ctx context.Context, pool *sql.DB, opts *sql.TxOptions, fn func(tx *Tx) error) error {
	tx, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // also when fn panics; after a commit it does nothing
	if err := fn(&Tx{ctx: ctx, tx: tx, rebind: db.dialect.rebind}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// classify turns a failure of the database itself into a fault: 507 where the disk is full, 503 where a client may try again.
// Other errors are returned as they are.
func (db *DB) classify(err error) error {
	if _, ok := errors.AsType[*fault.Fault](err); ok {
		return err
	}
	if db.dialect.full(err) {
		return fault.NoSpace("records").Because(err)
	}
	if db.dialect.retryable(err) || db.dialect.unavailable(err) {
		return fault.StoreUnavailable(db.service).Because(err).After(time.Second)
	}
	return err
}
