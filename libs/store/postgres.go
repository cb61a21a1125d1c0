package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Connections of one process to PostgreSQL, whose default is 100 for all clients together.
const (
	postgresConns   = 8
	postgresTimeout = 5 * time.Second // to connect
)

type postgresDialect struct{}

func openPostgres(ctx context.Context, cfg Config, migrations fs.FS) (_ *DB, err error) {
	if !strings.HasPrefix(cfg.URL, "postgres://") && !strings.HasPrefix(cfg.URL, "postgresql://") {
		return nil, errors.New("database URL must begin with postgres://") // not quoted: it holds a password
	}
	conn, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, err
	}
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = postgresTimeout
	}
	schema := strings.ReplaceAll(cfg.Service, "-", "_")
	conn.RuntimeParams["search_path"] = schema
	conn.RuntimeParams["application_name"] = "rumi " + cfg.Service
	conn.RuntimeParams["synchronous_commit"] = "on" // whatever the server's default is
	pool := stdlib.OpenDB(*conn)
	pool.SetMaxOpenConns(postgresConns)
	pool.SetMaxIdleConns(postgresConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	db := &DB{service: cfg.Service, write: pool, read: pool, dialect: postgresDialect{}}
	defer func() {
		if err != nil {
			err = db.classify(err)
			_ = db.Close()
		}
	}()

	// One process migrates at a time. An advisory lock belongs to its connection, so it is taken and released on the same one; the
	// server drops it when the process dies.
	lock, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	h := fnv.New64a()
	h.Write([]byte("rumi " + schema))
	key := int64(h.Sum64())
	if _, err := lock.ExecContext(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return nil, fmt.Errorf("lock schema %s: %w", schema, err)
	}
	defer func() {
		_, unlock := lock.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", key)
		err = errors.Join(err, unlock)
	}()
	if _, err := lock.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return nil, fmt.Errorf("make schema %s: %w", schema, err)
	}
	return db, migrate(ctx, goose.DialectPostgres, pool, migrations)
}

// rebind numbers the placeholders, leaving alone what is quoted.
func (postgresDialect) rebind(query string) string {
	if strings.IndexByte(query, '?') < 0 {
		return query
	}
	var out strings.Builder
	out.Grow(len(query) + 8)
	n, quote := 0, byte(0)
	for i := range len(query) {
		c := query[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '?':
			n++
			out.WriteByte('$')
			out.WriteString(strconv.Itoa(n))
			continue
		}
		out.WriteByte(c)
	}
	return out.String()
}

// retryable is true for serialization_failure and deadlock_detected.
func (postgresDialect) retryable(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}

// unavailable is true for connections that failed or broke, for too_many_connections and while the server starts or stops.
func (postgresDialect) unavailable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "53300" || strings.HasPrefix(e.Code, "57P") || strings.HasPrefix(e.Code, "08")
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	_, ok := errors.AsType[net.Error](err)
	return ok || pgconn.SafeToRetry(err)
}

// full is true for disk_full.
func (postgresDialect) full(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "53100"
}

// writeOptions ask for serializable transactions, so that one SQL text has the same effect as with SQLite's single writer: as if
// the transactions ran one after the other.
func (postgresDialect) writeOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelSerializable}
}

func (postgresDialect) readOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}
