package auditfile

import (
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

// Day is a day of UTC, counted from 1970-01-01.
type Day int32

const secondsADay = 24 * 60 * 60

// DayOf is the day of an instant.
func DayOf(t time.Time) Day {
	seconds := t.Unix()
	day := seconds / secondsADay
	if seconds%secondsADay < 0 {
		day--
	}
	return Day(day)
}

// ParseDay reads 2026-01-31.
func ParseDay(text string) (day Day, ok bool) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return 0, false
	}
	return DayOf(t), true
}

// Start is the first instant of the day.
func (d Day) Start() time.Time { return time.Unix(int64(d)*secondsADay, 0).UTC() }

// String is the day as ParseDay reads it.
func (d Day) String() string { return d.Start().Format(time.DateOnly) }

// Extensions of the files.
const (
	plain      = ".jsonl"
	compressed = ".jsonl.zst"
)

// ID names the lines of one category and day, whatever they are stored in.
type ID struct {
	Category audit.Category
	Day      Day
}

// Name is the name of the plain file.
func (id ID) Name() string { return id.stem() + plain }

// CompressedName is the name of the compressed file.
func (id ID) CompressedName() string { return id.stem() + compressed }

func (id ID) stem() string { return id.Category.String() + "_" + id.Day.String() }

// ParseName reads a file's name, as Name and CompressedName make it. ok is false for every other file, such as one that was rotated by the operator.
func ParseName(name string) (id ID, isCompressed, ok bool) {
	stem, isCompressed := strings.CutSuffix(name, compressed)
	if !isCompressed {
		if stem, ok = strings.CutSuffix(name, plain); !ok {
			return ID{}, false, false
		}
	}
	at := strings.LastIndexByte(stem, '_')
	if at < 0 {
		return ID{}, false, false
	}
	category, known := audit.ParseCategory(stem[:at])
	day, valid := ParseDay(stem[at+1:])
	return ID{category, day}, isCompressed, known && valid
}
