package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Tx is a running transaction. It is valid only inside the function that DB.Tx or DB.View called with it, and not for concurrent
// use.
type Tx struct {
	ctx    context.Context
	tx     *sql.Tx
	rebind func(string) string
}

// Exec runs a statement that gives no rows.
func (t *Tx) Exec(query string, args ...any) (sql.Result, error) {
	args, err := portable(args)
	if err != nil {
		return nil, err
	}
	return t.tx.ExecContext(t.ctx, t.rebind(query), args...)
}

// Query runs a statement that gives rows. The caller closes them before its next statement.
func (t *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	args, err := portable(args)
	if err != nil {
		return nil, err
	}
	return t.tx.QueryContext(t.ctx, t.rebind(query), args...)
}

// QueryRow runs a statement that gives at most one row.
func (t *Tx) QueryRow(query string, args ...any) *Row {
	args, err := portable(args)
	if err != nil {
		return &Row{err: err}
	}
	return &Row{row: t.tx.QueryRowContext(t.ctx, t.rebind(query), args...)}
}

// Row is the result of QueryRow.
type Row struct {
	row *sql.Row
	err error
}

// Scan copies the row's columns to dest. If there is no row the error is ErrNoRows.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.row.Scan(dest...)
}

// Each runs a statement and calls fn for each of its rows; scan is that row's Scan.
func (t *Tx) Each(fn func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := t.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// portable turns arguments into values that both databases store alike. Text that PostgreSQL can't store is refused for SQLite,
// too: a pack must not be able to store on one what fails on the other.
func portable(args []any) ([]any, error) {
	out := args
	for i, arg := range args {
		var v any
		switch arg := arg.(type) {
		case string:
			if strings.IndexByte(arg, 0) >= 0 || !utf8.ValidString(arg) {
				return nil, fault.Invalid("Text must be UTF-8 without NUL characters").With("invalid_text")
			}
			continue
		case bool:
			n := int64(0)
			if arg {
				n = 1
			}
			v = n
		case time.Time:
			v = micros(arg)
		default:
			continue
		}
		if &out[0] == &args[0] {
			out = append([]any(nil), args...)
		}
		out[i] = v
	}
	return out, nil
}

// micros is how a time is stored: microseconds since 1970, 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time scans a BIGINT column that was written from a time.Time, in UTC.
func Time(dest *time.Time) sql.Scanner { return timeScanner{dest} }

type timeScanner struct{ dest *time.Time }

func (s timeScanner) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("scan time: column holds %T", src)
	}
	*s.dest = time.Time{}
	if n != 0 {
		*s.dest = time.UnixMicro(n).UTC()
	}
	return nil
}
