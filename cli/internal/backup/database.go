package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"modernc.org/sqlite" // also the driver of database/sql
)

// stepPages is how many pages of a database are copied at a time; between two steps its service may write.
const stepPages = 1000

// isDatabase says whether a path is that of a service's SQLite database: user_data/state/<service>/<name>.db.
func isDatabase(name string) bool {
	return strings.HasPrefix(name, stateDir+"/") && strings.Count(name, "/") == 3 && strings.HasSuffix(name, ".db")
}

// snapshot copies the SQLite database at source to target by SQLite's online backup: the copy is the database as it was at one moment, and
// is a whole file without a write-ahead log. A copy of the file itself would lack what is only in that log, and might be torn.
//
// The source is opened as SQLite does it, not read as a file: a process that closes a file of SQLite's loses all its locks on it.
func snapshot(ctx context.Context, source, target string) (err error) {
	db, err := sql.Open("sqlite", dsn(source, "rw"))
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", source, err)
	}
	defer conn.Close()
	err = conn.Raw(func(driver any) error {
		from, ok := driver.(interface {
			NewBackup(string) (*sqlite.Backup, error)
		})
		if !ok {
			return errors.New("the SQLite driver has no online backup")
		}
		b, err := from.NewBackup(target)
		if err != nil {
			return err
		}
		more := true
		for more && err == nil {
			if err = ctx.Err(); err == nil {
				more, err = b.Step(stepPages)
			}
		}
		return errors.Join(err, b.Finish())
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", source, err)
	}
	return os.Chmod(target, 0o600)
}

func dsn(file, mode string) string {
	q := url.Values{"mode": {mode}, "_pragma": {"busy_timeout(10000)"}}
	return (&url.URL{Scheme: "file", Path: file, RawQuery: q.Encode()}).String()
}

// open opens a copy of a database, for reading.
func open(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(file, "rw"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// describe checks a copy of a database, and counts its rows. An error says that the copy is damaged.
func describe(ctx context.Context, file, name string) (d Database, err error) {
	d = Database{Path: name, Service: path.Base(path.Dir(name)), Tables: map[string]int64{}}
	db, err := open(file)
	if err != nil {
		return d, err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	if verdict != "ok" {
		return d, fmt.Errorf("%s is damaged: %s", name, verdict)
	}
	tables, err := tablesOf(ctx, db)
	if err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	for _, table := range tables {
		var rows int64
		if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+quote(table)).Scan(&rows); err != nil {
			return d, fmt.Errorf("%s: count %s: %w", name, table, err)
		}
		d.Tables[table] = rows
	}
	if _, ok := d.Tables[versionTable]; ok {
		err = db.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM "+versionTable).Scan(&d.Version)
	}
	return d, err
}

// versionTable is where goose keeps which migrations were applied.
const versionTable = "goose_db_version"

func tablesOf(ctx context.Context, db *sql.DB) (names []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// same says in what two descriptions of a database differ, "" for nothing.
func same(want, got Database) string {
	if want.Version != got.Version {
		return fmt.Sprintf("%s has the migrations up to %d, and the manifest says %d", got.Path, got.Version, want.Version)
	}
	for table, rows := range want.Tables {
		if n, ok := got.Tables[table]; !ok || n != rows {
			return fmt.Sprintf("%s has %d rows in %s, and the manifest says %d", got.Path, n, table, rows)
		}
	}
	if len(want.Tables) != len(got.Tables) {
		return fmt.Sprintf("%s has %d tables, and the manifest says %d", got.Path, len(got.Tables), len(want.Tables))
	}
	return ""
}

// copies are copies of all databases of a home, in a folder of their own.
type copies struct {
	dir   string
	files map[string]string // path in the home → path of the copy
}

// newCopies makes a folder for copies below a folder that only the services' user and root may read.
func newCopies(below string) (*copies, error) {
	if err := os.MkdirAll(below, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(below, ".databases-")
	if err != nil {
		return nil, err
	}
	return &copies{dir: dir, files: map[string]string{}}, nil
}

// target is where the copy of a database goes.
func (c *copies) target(name string) string {
	return filepath.Join(c.dir, strings.ReplaceAll(name, "/", "~"))
}

func (c *copies) close() { _ = os.RemoveAll(c.dir) }
