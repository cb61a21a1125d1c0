package store

import (
	"os"
	"time"
)

const (
	// askAnyway is how often Changes says yes without knowing.
	askAnyway = 5 * time.Second
	// settled is how old a write must be for the next one to have another time: well over a tick of the kernel's clock.
	settled = 100 * time.Millisecond
)

// Changes tells who follows a database that others write to whether it is worth a query. It is not for concurrent use.
//
// On SQLite it looks at size and time of the write-ahead log, which every commit writes to. It must not open that file, nor
// any other of the database's: SQLite's locks are those of fcntl(2), and a process that closes a descriptor of a file
// loses every lock it holds on it, SQLite's own among them, whereupon two processes may write at once.
type Changes struct {
	log  string // SQLite's write-ahead log, "" for a database that must be asked each time
	size int64
	time time.Time // of the log's last write, when it was last looked at
	said time.Time // when Pending was last true; zero to ask at once
}

// Changes starts with everything unseen.
func (db *DB) Changes() *Changes { return &Changes{log: db.log} }

// Pending says whether anybody, this process included, may have committed since it was last called. It costs a few
// microseconds on SQLite, where a query costs hundreds in a process that is idle otherwise; on PostgreSQL it is always
// true.
func (c *Changes) Pending() bool {
	if c.log == "" {
		return true
	}
	now := time.Now()
	is, err := os.Stat(c.log)
	if err == nil && is.Size() == c.size && is.ModTime().Equal(c.time) && now.Sub(c.time) > settled && now.Sub(c.said) < askAnyway {
		return false
	}
	if err == nil {
		c.size, c.time = is.Size(), is.ModTime()
	}
	c.said = now
	return true
}

// Again has the next Pending say yes, for who could not use the last one.
func (c *Changes) Again() { c.said = time.Time{} }
