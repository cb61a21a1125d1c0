package vault

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/statecount"
)

// The results of reads that are not outcomes of any operation.
const (
	readNotFound = "not_found"
	readDamaged  = "damaged"
)

func newReads(registry prometheus.Registerer) outcome.Counter {
	return outcome.NewCounter(registry, "rumi_secret_reads_total",
		"Values that were asked for, by result: ok, not_found, damaged (the file can't be trusted), failed (it or the key can't be read).",
		outcome.OK, readNotFound, readDamaged, outcome.Failed)
}

func readResult(err error) string {
	switch {
	case err == nil:
		return outcome.OK
	case errors.Is(err, errDamaged):
		return readDamaged
	case outcome.Of(err) == outcome.Refused: // there is no such key, or there can't be one
		return readNotFound
	}
	return outcome.Failed
}

// The states of secrets' files.
const (
	fileSet     = "set"
	fileDeleted = "deleted"
	fileDamaged = "damaged"
)

// files counts the files of secrets by state. Whether a file is damaged shows only when it is decrypted, and all of them may be a gigabyte: a file is
// read again only when it was replaced. A change of the key that makes all of them useless shows at their reads.
type files struct {
	vault *Vault

	mu    sync.Mutex
	known map[string]counted // by name
}

type counted struct {
	size  int64
	mtime time.Time
	inode uint64
	state string
}

// count counts the files anew. It runs for one scrape at a time.
func (f *files) count(context.Context) (statecount.Counts, error) {
	names, err := f.vault.names()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now, counts := make(map[string]counted, len(names)), make(statecount.Counts)
	for _, name := range names {
		key, ok := strings.CutSuffix(name, ".json")
		if !ok || !validKey(key) {
			continue
		}
		one, err := f.look(name, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the folder was read
		}
		if err != nil {
			return nil, err
		}
		now[name] = one
		counts[one.state]++
	}
	f.known = now
	return counts, nil
}

func (f *files) look(name, key string) (counted, error) {
	info, err := f.vault.root.Lstat(name)
	if err != nil {
		return counted{}, err
	}
	one := counted{size: info.Size(), mtime: info.ModTime(), inode: info.Sys().(*syscall.Stat_t).Ino}
	if last := f.known[name]; last.size == one.size && last.mtime.Equal(one.mtime) && last.inode == one.inode {
		return last, nil
	}
	content, _, err := f.vault.load(key)
	switch {
	case errors.Is(err, errDamaged):
		one.state = fileDamaged
	case err != nil:
		return counted{}, err
	case content.deleted():
		one.state = fileDeleted
	default:
		one.state = fileSet
	}
	return one, nil
}

func (v *Vault) register(registry prometheus.Registerer) {
	f := &files{vault: v}
	count := statecount.Cached(f.count)
	gauge := func(name, help, state string) {
		registry.MustRegister(statecount.NewTotal(name, help, func() (statecount.Counts, bool) {
			counts, ok := count()
			return statecount.Counts{"": counts[state]}, ok
		}))
	}
	gauge("rumi_secrets", "Secrets that have a value.", fileSet)
	gauge("rumi_secrets_damaged", "Secrets whose file can't be trusted; the log names them at the start, and the audit log at each read.", fileDamaged)
}
