// Package diskusage makes the report of the files that a service has on the disk: for each its path, its size, and how to remove it.
//
// Each service with files in the Rumi home answers Endpoint with its own report (Handle). The gateway asks all of them (Ask) and merges the
// reports for GET /api/storage.
package diskusage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Endpoint is the endpoint of the service owner that answers its Report, for the gateway only.
func Endpoint(owner string) route.Endpoint[struct{}, Report] {
	return route.Internal[struct{}, Report]("GET", "/internal/storage", owner, roster.Gateway)
}

// MaxItems bounds the items of one report. The largest are listed; Omitted and OmittedBytes sum up the others.
const MaxItems = 1000

// Item is one folder or file that takes space and is removed as a whole.
type Item struct {
	Path      string    `json:"path"`                // relative to the Rumi home: "user_data/pack_backups/x/20260102T…"
	Kind      string    `json:"kind"`                // snake_case, one of its service's: "backup", "staging", "leftover"
	PackID    string    `json:"pack_id,omitzero"`    // the pack that it belongs or belonged to
	Bytes     int64     `json:"bytes"`               // of its files, as far as they could be read
	Files     int       `json:"files"`               // regular files, as far as they could be counted
	MadeAt    time.Time `json:"made_at,omitzero"`    // UTC
	Removable bool      `json:"removable"`           // Rumi works without it: only its contents are lost
	Remove    string    `json:"remove,omitzero"`     // the API call or the command that removes it: "DELETE /api/packs/x/backups/…"
	ExpiresAt time.Time `json:"expires_at,omitzero"` // when the service removes it by itself; zero for never
	Error     string    `json:"error,omitzero"`      // why Bytes and Files are less than they are
}

// Report lists the items of a service, the largest first, at most MaxItems.
type Report struct {
	Items        []Item `json:"items"`
	Omitted      int    `json:"omitted,omitzero"`       // items beyond MaxItems
	OmittedBytes int64  `json:"omitted_bytes,omitzero"` // of these
}

// NewReport sorts items, the largest first, and keeps the first MaxItems.
func NewReport(items []Item) Report {
	slices.SortStableFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Path, b.Path))
	})
	report := Report{Items: items}
	if len(items) > MaxItems {
		for _, left := range items[MaxItems:] {
			report.OmittedBytes += left.Bytes
		}
		report.Omitted, report.Items = len(items)-MaxItems, items[:MaxItems]
	}
	if report.Items == nil {
		report.Items = []Item{}
	}
	return report
}

// List finds the items of a service. An error is answered in place of the whole report, so a problem with one item belongs in that item's
// Error instead.
type List func(context.Context) ([]Item, error)

// Handle answers e with the items of list, as a Report.
func Handle(h *route.Handlers, e route.Endpoint[struct{}, Report], list List) {
	route.Handle(h, e, func(ctx context.Context, _ struct{}) (Report, error) {
		items, err := list(ctx)
		if err != nil {
			return Report{}, err
		}
		return NewReport(items), nil
	})
}

// Ask gets the report of the service that peer calls. The owner isn't needed: all services answer it at the same path.
func Ask(ctx context.Context, peer *client.Peer) (Report, error) {
	return route.Call(ctx, peer, Endpoint(""), struct{}{})
}

// RemoveCommand is the shell command that an operator runs in the Rumi home to remove a path. The attack: a pack names a file so
// that the pasted command does something else. So a path with any character that a shell could interpret is quoted.
func RemoveCommand(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-") != "" {
		path = "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return "rm -rf -- " + path
}

// Measure sets Bytes and Files to those of name in root: a file, or a folder with everything in it. If some of it can't be read it
// sets Error, too. Links are not followed, and a file with several names in the folder is counted once. A name that doesn't
// exist has 0 bytes and is no error.
func (i *Item) Measure(ctx context.Context, root *os.Root, name string) {
	m := measuring{ctx: ctx, item: i, counted: map[file]bool{}}
	m.count(root, name, 0)
	switch {
	case ctx.Err() != nil:
		i.Error = ctx.Err().Error()
	case m.unread > 0:
		i.Error = fmt.Sprintf("%d of its names can't be read: %v", m.unread, m.first)
	}
}

// maxDepth bounds folders within folders: each level keeps a descriptor open. What lies deeper counts as unread.
const maxDepth = 128

// file identifies a file whatever its name is.
type file struct{ device, inode uint64 }

// measuring is one run of Measure.
type measuring struct {
	ctx     context.Context
	item    *Item
	counted map[file]bool // of the files with several names
	unread  int
	first   error // why the first unread name can't be read
}

// fail notes a name that could not be read, unless it was removed meanwhile.
func (m *measuring) fail(err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if m.unread++; m.first == nil {
		m.first = err
	}
}

// count adds what is at name: a file, or a folder with everything in it.
func (m *measuring) count(root *os.Root, name string, depth int) {
	if m.ctx.Err() != nil {
		return
	}
	info, err := root.Lstat(name)
	switch {
	case err != nil:
		m.fail(err)
	case info.IsDir() && depth == maxDepth:
		m.fail(fmt.Errorf("%s is more than %d folders deep", name, maxDepth))
	case info.IsDir():
		m.folder(root, name, depth)
	case info.Mode().IsRegular():
		m.file(info)
	}
}

// folder counts the contents of a folder. It reads names only: if it read types, too, the first entry that can't be inspected
// would end the list.
func (m *measuring) folder(root *os.Root, name string, depth int) {
	inner, err := root.OpenRoot(name)
	if err != nil {
		m.fail(err)
		return
	}
	defer inner.Close()
	dir, err := inner.OpenFile(".", os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		m.fail(err)
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		m.fail(err)
	}
	for _, name := range names {
		m.count(inner, name, depth+1)
	}
}

// file adds a regular file, once if it has several names.
func (m *measuring) file(info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		key := file{uint64(st.Dev), st.Ino}
		if m.counted[key] {
			return
		}
		m.counted[key] = true
	}
	m.item.Files++
	m.item.Bytes += info.Size()
}
