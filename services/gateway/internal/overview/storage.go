package overview

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Storage asks every service that keeps files.
func (v *Views) Storage(ctx context.Context) api.Storage {
	var mu sync.Mutex
	answer := api.Storage{Items: []api.Stored{}}
	keep := func(service string, report diskusage.Report) {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range report.Items {
			answer.Items = append(answer.Items, api.Stored{Service: service, Item: item})
			answer.Bytes += item.Bytes
			if item.Removable {
				answer.RemovableBytes += item.Bytes
			}
		}
		answer.Omitted += report.Omitted
		answer.Bytes += report.OmittedBytes
	}
	s := newSections(ctx)
	for _, service := range roster.Where(func(s roster.Service) bool { return s.StoresFiles }) {
		s.add(service, func(ctx context.Context) error {
			report, err := diskusage.Ask(ctx, v.Peer(service))
			if err == nil {
				keep(service, report)
			}
			return err
		})
	}
	s.add(api.Service, func(ctx context.Context) error {
		items, err := v.auditLog(ctx)
		keep(api.Service, diskusage.NewReport(items))
		return err
	})
	answer.Errors = s.wait()
	slices.SortStableFunc(answer.Items, func(a, b api.Stored) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Path, b.Path))
	})
	answer.Count = len(answer.Items) + answer.Omitted
	if len(answer.Items) > diskusage.MaxItems {
		answer.Omitted += len(answer.Items) - diskusage.MaxItems
		answer.Items = answer.Items[:diskusage.MaxItems]
	}
	return answer
}

// auditLog are the files of the audit log, which all services write, by category and day. A day that is over is written no more; it may
// go when nobody needs its entries.
func (v *Views) auditLog(ctx context.Context) ([]diskusage.Item, error) {
	root, err := os.OpenRoot(v.UserData)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), "audit")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	today := time.Now().UTC().Format(time.DateOnly)
	var items []diskusage.Item
	for _, entry := range entries {
		item := diskusage.Item{Path: "user_data/audit/" + entry.Name(), Kind: "audit_log"}
		item.Measure(ctx, root, "audit/"+entry.Name())
		stem, ended := strings.CutSuffix(strings.TrimSuffix(entry.Name(), ".zst"), ".jsonl")
		if at := strings.LastIndexByte(stem, '_'); ended && at > 0 {
			if day, err := time.Parse(time.DateOnly, stem[at+1:]); err == nil {
				item.MadeAt = day
				item.Removable = stem[at+1:] < today
			}
		}
		if item.Removable {
			item.Remove = "sudo rm " + item.Path + " (copy it first where entries must be kept)"
		}
		items = append(items, item)
	}
	return items, err
}
