package store

import (
	"encoding/binary"
	"os"
	"time"
)

// askAnyway is how often Changes says yes without knowing: SQLite rebuilds its index, counter included, after a crash.
const askAnyway = 5 * time.Second

// Changes tells who follows a database that others write to whether it is worth a query. It is not for concurrent use.
type Changes struct {
	index string // SQLite's WAL-index, "" for a database that must be asked each time
	seen  uint32
	said  time.Time // when Pending was last true; zero to ask at once
}

// Changes starts with everything unseen.
func (db *DB) Changes() *Changes { return &Changes{index: db.index} }

// Offset and length of iChange in the WAL-index header: "incremented with each transaction"
// (https://sqlite.org/walformat.html, section 2.1). It is in the byte order of the machine.
const (
	changeOffset = 8
	changeLength = 4
)

// Pending says whether anybody, this process included, may have committed since it was last called. It costs a few
// microseconds on SQLite, where a query costs hundreds in a process that is idle otherwise; on PostgreSQL it is always
// true.
func (c *Changes) Pending() bool {
	if c.index == "" {
		return true
	}
	counter, err := readCounter(c.index)
	if err == nil && counter == c.seen && time.Since(c.said) < askAnyway {
		return false
	}
	c.seen, c.said = counter, time.Now()
	return true
}

// Again has the next Pending say yes, for who could not use the last one.
func (c *Changes) Again() { c.said = time.Time{} }

func readCounter(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var raw [changeLength]byte
	if _, err := f.ReadAt(raw[:], changeOffset); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(raw[:]), nil
}
