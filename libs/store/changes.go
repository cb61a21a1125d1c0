package store

import (
	"os"
	"time"
)

const (
	// maxSilence is how often Pending is true although nothing seems to have changed, should a change ever be missed.
	maxSilence = 5 * time.Second
	// mtimeGranularity is how old a write must be for the next one to get another modification time: well over a tick of the
	// kernel's clock, by which it stamps files. Two commits within one tick could leave the log with the same size and time.
	mtimeGranularity = 100 * time.Millisecond
)

// Changes says whether a database may have changed, so that a process which follows what others write needs no query to find
// that they wrote nothing. It is not for concurrent use.
//
// On SQLite it compares size and time of the write-ahead log, which every commit writes to. It must not open that file, nor
// any other of the database's: SQLite's locks are those of fcntl(2), and a process that closes a descriptor of a file
// loses every lock it holds on it, SQLite's own among them, whereupon two processes may write at once.
type Changes struct {
	wal      string // SQLite's write-ahead log, "" for a database that must be asked each time
	size     int64
	time     time.Time // of the log's last write, when it was last looked at
	lastTrue time.Time // when Pending was last true; zero to ask at once
}

// Changes returns a Changes whose first Pending is true.
func (db *DB) Changes() *Changes { return &Changes{wal: db.wal} }

// Pending says whether anybody, this process included, may have committed since it was last called. It costs a few
// microseconds on SQLite, where a query costs hundreds in a process that is idle otherwise; on PostgreSQL it is always
// true.
func (c *Changes) Pending() bool {
	if c.wal == "" {
		return true
	}
	now := time.Now()
	is, err := os.Stat(c.wal)
	if err == nil && is.Size() == c.size && is.ModTime().Equal(c.time) && now.Sub(c.time) > mtimeGranularity && now.Sub(c.lastTrue) < maxSilence {
		return false
	}
	if err == nil {
		c.size, c.time = is.Size(), is.ModTime()
	}
	c.lastTrue = now
	return true
}

// Recheck makes the next Pending true. A caller whose query failed after a Pending calls it, or it would miss that change.
func (c *Changes) Recheck() { c.lastTrue = time.Time{} }
