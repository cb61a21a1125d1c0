package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// nameTime is how the name of a scheduled backup says when it was taken, in UTC.
const nameTime = "20060102T150405Z"

// scheduledName matches the names of scheduled backups. One whose home had problems says so in its name, so that this can't be lost.
var scheduledName = regexp.MustCompile(`\Arumi-([0-9]{8}T[0-9]{6}Z)(-unverified)?\.age\z`)

// Kept is a scheduled backup in its folder.
type Kept struct {
	Name     string
	At       time.Time
	Size     int64 // bytes
	Verified bool
}

// list lists the scheduled backups of a folder, the newest first. A file without a name like theirs is none: it is the operator's.
func list(dir string) ([]Kept, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the backups: %w", err)
	}
	var found []Kept
	for _, e := range entries {
		parts := scheduledName.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if parts == nil || err != nil || !info.Mode().IsRegular() {
			continue
		}
		at, err := time.Parse(nameTime, parts[1])
		if err != nil {
			continue
		}
		found = append(found, Kept{Name: e.Name(), At: at, Size: info.Size(), Verified: parts[2] == ""})
	}
	slices.SortFunc(found, func(a, b Kept) int { return strings.Compare(b.Name, a.Name) })
	return found, nil
}

// expired are those of some backups, the newest first, that retention removes: all but the newest keep verified ones, the newest of each of
// the last weeks weeks, and the newest keep ones that are not verified. So the newest verified one is never among them.
func expired(all []Kept, keep, weeks int) (remove []Kept) {
	kept := map[bool]int{}
	var seen []string
	for _, k := range all {
		year, week := k.At.ISOWeek()
		name := fmt.Sprintf("%d-%d", year, week)
		weekly := k.Verified && !slices.Contains(seen, name) && len(seen) < weeks
		if weekly {
			seen = append(seen, name)
		}
		if kept[k.Verified] < max(keep, 1) {
			kept[k.Verified]++
		} else if !weekly {
			remove = append(remove, k)
		}
	}
	return remove
}

// clear removes the backups that retention removes, and what a killed program was writing.
func clearOld(dir string, keep, weeks int) error {
	all, err := list(dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, k := range expired(all, keep, weeks) {
		problems = append(problems, os.Remove(filepath.Join(dir, k.Name)))
	}
	half, err := filepath.Glob(filepath.Join(dir, ".rumi-*.age.new"))
	problems = append(problems, err)
	for _, name := range half {
		if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
