// Package vault keeps secrets in a folder: one file a key with the encrypted value, or with a tombstone once it is
// deleted, and a journal of every change.
//
// Several processes may share the folder. Writers exclude each other by a lock on a file in it; readers need none,
// since files are replaced by rename. Nothing is cached: a file that an attacker changes, or swaps for another key's, is noticed at its
// next use, and no reader is given a value that was deleted meanwhile.
package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tink-crypto/tink-go/v2/tink"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/outcome"
)

const (
	lockName = ".lock"

	maxKey = 64
)

// Secret describes a secret without its value.
type Secret struct {
	Key       string
	CreatedAt time.Time // zero where Damaged
	UpdatedAt time.Time // of the last set; zero where Damaged
	DeletedAt time.Time // zero unless deleted
	Damaged   bool      // the file can't be trusted; setting the key again mends it
}

// Exists says whether there is a value to be had.
func (s Secret) Exists() bool { return !s.Damaged && s.DeletedAt.IsZero() }

// ParseKey checks a key: ^[A-Z0-9_]{1,64}$.
func ParseKey(s string) (string, error) {
	if s == "" {
		return "", fault.Invalid("Missing 'key'").With("missing_key")
	}
	if !validKey(s) {
		return "", fault.Invalid("Invalid key: must match ^[A-Z0-9_]{1,64}$").With("invalid_key")
	}
	return s, nil
}

func validKey(s string) bool {
	if len(s) == 0 || len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// Vault is an open folder of secrets.
type Vault struct {
	root    *os.Root
	folder  *os.File // the root itself, to be synced
	lock    *os.File
	journal *os.File
	cipher  tink.AEAD
	audit   *audit.Log
	log     *slog.Logger
	reads   outcome.Counter

	writers sync.Mutex        // within the process what lock is between processes
	onStep  func(step string) // called at each step of a change; nil but in crash tests
}

// Open opens the folder of secrets dir, which is made when it is missing and closed to everybody else. What killed
// writers left is removed, and every file that can't be trusted is named in the log. Open registers metrics.
func Open(ctx context.Context, dir string, cipher tink.AEAD, log *audit.Log, logger *slog.Logger, registry prometheus.Registerer) (*Vault, error) {
	v := &Vault{cipher: cipher, audit: log, log: logger, reads: newReads(registry)}
	if err := v.open(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open secrets: %w", err), v.Close())
	}
	v.register(registry)
	secrets, err := v.List(ctx)
	if errors.Is(err, keyset.ErrUnavailable) { // it may come back at any time
		logger.Error("opened secrets that can't be read for now", "dir", dir, "error", err)
		return v, nil
	}
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	logger.Info("opened secrets", "dir", dir, "count", len(secrets))
	return v, nil
}

func (v *Vault) open(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("%s is open to others and can't be closed: %w; run `chmod 700 %s`", dir, err, dir)
		}
		v.log.Warn("closed the folder of secrets to others", "dir", dir, "mode", info.Mode().Perm().String())
	}
	if v.root, err = os.OpenRoot(dir); err != nil {
		return err
	}
	if v.folder, err = v.root.Open("."); err != nil {
		return err
	}
	if v.lock, err = v.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if v.journal, err = v.root.OpenFile(journalName, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return err
	}
	unlock, err := v.lockWriters()
	if err != nil {
		return err
	}
	defer unlock()
	return v.sweep()
}

// sweep removes the temporary files of killed writers, and syncs the folder, so that the files that Open made survive a power cut.
func (v *Vault) sweep() error {
	names, err := v.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if key, ok := strings.CutSuffix(strings.TrimPrefix(name, "."), ".new"); ok && name == tempName(key) && validKey(key) {
			if err := v.root.Remove(name); err != nil {
				return err
			}
		}
	}
	return v.folder.Sync()
}

// Close closes the folder.
func (v *Vault) Close() error {
	var problems []error
	for _, f := range []*os.File{v.journal, v.lock, v.folder} {
		if f != nil {
			problems = append(problems, f.Close())
		}
	}
	if v.root != nil {
		problems = append(problems, v.root.Close())
	}
	return errors.Join(problems...)
}

// Set stores value under key and says whether the key had none before. When it returns, value, journal and audit entry
// outlive a power cut. A damaged file is replaced.
func (v *Vault) Set(ctx context.Context, key string, value api.Value) (created bool, err error) {
	if key, err = ParseKey(key); err != nil {
		return false, err
	}
	if err := checkSize(value); err != nil {
		return false, err
	}
	sealed, err := seal(v.cipher, key, value)
	if err != nil {
		return false, fmt.Errorf("set secret: %w", err)
	}
	unlock, err := v.lockWriters()
	if err != nil {
		return false, fmt.Errorf("set secret: %w", err)
	}
	defer unlock()
	old, _, err := v.load(key)
	switch {
	case errors.Is(err, errDamaged):
		v.log.WarnContext(ctx, "replaced a damaged secret", "key", key, "error", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("set secret: %w", err)
	}
	now := time.Now().UTC()
	next := file{Version: formatVersion, Key: key, CreatedAt: now, UpdatedAt: now, Sealed: sealed}
	created = err != nil || old.deleted()
	if !created {
		next.CreatedAt = old.CreatedAt
		if now.Before(old.CreatedAt) { // the clock was set back
			next.UpdatedAt = old.CreatedAt
		}
	}
	if err := v.change(ctx, "set", next.UpdatedAt, next, map[string]any{"key": key, "created": created}); err != nil {
		return false, fmt.Errorf("set secret: %w", err)
	}
	return created, nil
}

// Delete replaces key's value by a tombstone. Deleting twice does nothing the second time; a key that never
// was is a fault of kind not found.
func (v *Vault) Delete(ctx context.Context, key string) error {
	key, err := ParseKey(key)
	if err != nil {
		return err
	}
	unlock, err := v.lockWriters()
	if err != nil {
		return fmt.Errorf("delete secret: %w", err)
	}
	defer unlock()
	now := time.Now().UTC()
	old, _, err := v.load(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notFound(key)
	case errors.Is(err, errDamaged):
		v.log.WarnContext(ctx, "deleted a damaged secret", "key", key, "error", err)
		old = file{CreatedAt: now, UpdatedAt: now}
	case err != nil:
		return fmt.Errorf("delete secret: %w", err)
	case old.deleted():
		return nil
	}
	next := file{Version: formatVersion, Key: key, CreatedAt: old.CreatedAt, UpdatedAt: old.UpdatedAt, DeletedAt: now}
	if err := v.change(ctx, "delete", now, next, map[string]any{"key": key}); err != nil {
		return fmt.Errorf("delete secret: %w", err)
	}
	return nil
}

// change makes next the file of its key. The order of its steps is an invariant: new file beside the old one, line in the journal, audit
// entry, rename. So a crash, whenever it comes, leaves no change without its line and its entry; it may leave a line and an entry of a
// change that didn't happen, whose time is in no file. The caller holds the lock of writers.
func (v *Vault) change(ctx context.Context, action string, at time.Time, next file, details map[string]any) error {
	entry := audit.Entry{Category: audit.System, Severity: audit.Info, Action: auditActions[action], Success: true, Details: details}
	prepared, err := v.prepare(next)
	if err != nil {
		return err
	}
	defer prepared.Discard() // where a crash or an error keeps it from this, the next writer or start removes it
	v.step("prepared")
	if err := v.appendJournal(line{TS: at, Action: action, Key: next.Key, Actor: origin.Of(ctx).Actor}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	v.step("journaled")
	if err := v.audit.Write(ctx, entry); err != nil {
		return err
	}
	v.step("audited")
	if err := prepared.Commit(); err != nil {
		entry.Success, entry.Severity, entry.Error = false, audit.Error, "file could not be replaced"
		return errors.Join(err, v.audit.Write(ctx, entry))
	}
	v.step("renamed")
	return nil
}

var auditActions = map[string]string{"set": "secret_set", "delete": "secret_deleted"}

// Value gives the value of key. A key that never was or is deleted is a fault of kind not found; a file that can't be
// trusted is an internal error with an entry of its own in the audit log.
func (v *Vault) Value(ctx context.Context, key string) (api.Value, error) {
	value, err := v.readValue(ctx, key)
	v.reads.Count(readResult(err))
	return value, err
}

func (v *Vault) readValue(ctx context.Context, key string) (api.Value, error) {
	key, err := ParseKey(key)
	if err != nil {
		return api.Value{}, err
	}
	f, value, err := v.load(key)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && f.deleted():
		return api.Value{}, notFound(key)
	case err == nil:
		return value, nil
	}
	err = fmt.Errorf("read secret %s: %w", key, err)
	if errors.Is(err, errDamaged) {
		err = errors.Join(err, v.audit.Write(ctx, audit.Entry{
			Category: audit.Security, Severity: audit.Critical, Action: "hash_mismatch", Success: false,
			Details: map[string]any{"subject": "secret", "key": key}, Error: err.Error(),
		}))
	}
	return api.Value{}, err
}

// List gives what is known of every secret, deleted ones included, sorted by key. Each file is checked: one that can't
// be trusted is Damaged, is named in the log, and keeps none of the others from being listed.
func (v *Vault) List(ctx context.Context) ([]Secret, error) {
	names, err := v.names()
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	secrets := make([]Secret, 0, len(names))
	for _, name := range names {
		key, ok := strings.CutSuffix(name, ".json")
		if !ok || !validKey(key) {
			continue
		}
		f, _, err := v.load(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // removed since the folder was read
		case errors.Is(err, keyset.ErrUnavailable):
			return nil, err
		case err != nil:
			v.log.ErrorContext(ctx, "found a secret that can't be used; set it again or restore its file", "key", key, "error", err)
			secrets = append(secrets, Secret{Key: key, Damaged: true})
		default:
			secrets = append(secrets, Secret{Key: key, CreatedAt: f.CreatedAt, UpdatedAt: f.UpdatedAt, DeletedAt: f.DeletedAt})
		}
	}
	slices.SortFunc(secrets, func(a, b Secret) int { return strings.Compare(a.Key, b.Key) })
	return secrets, nil
}

// names lists the names in the folder, temporary files too.
func (v *Vault) names() ([]string, error) {
	dir, err := v.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// lockWriters keeps every other writer out until unlock is called: of this process by a mutex, of others by the lock of a file. A file lock
// alone would not do: goroutines of a process share its descriptor, and with it the lock.
func (v *Vault) lockWriters() (unlock func(), err error) {
	v.writers.Lock()
	if err := flock.WaitOpen(v.lock, flock.Exclusive); err != nil {
		v.writers.Unlock()
		return nil, err
	}
	return func() {
		if err := flock.Unlock(v.lock); err != nil {
			v.log.Error("could not unlock the folder of secrets", "error", err)
		}
		v.writers.Unlock()
	}, nil
}

func (v *Vault) step(name string) {
	if v.onStep != nil {
		v.onStep(name)
	}
}

func notFound(key string) error {
	return fault.NotFound("Secret not found: %s", key).With("secret_not_found")
}
