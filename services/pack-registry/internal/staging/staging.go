// Package staging imports what may become packs: a folder, an archive on the disk, or an upload. Each import is checked, and
// then lies in a folder of its own (a staging), synced, until it is applied or expires. Package ecosystem applies it;
// internal/store keeps its record.
package staging

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/archive"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// Bounds of an import.
const (
	MaxUpload  = 500 << 20        // bytes of an uploaded archive
	Lifetime   = 24 * time.Hour   // of a staging
	maxNotes   = 4096             // bytes
	orphanAge  = time.Hour        // a younger folder without a record may belong to an import that is about to write it
	applyGrace = 10 * time.Minute // an expired staging is removed this much later: an apply that found it just before may still copy it
)

// Payload is the folder of a staging that holds its packs, each in a folder of its own.
const Payload = "payload"

const (
	tempPrefix = ".importing-"
	incoming   = "incoming" // what came in, before it is arranged
	uploaded   = "upload"
)

// Area is the folder of all stagings. It is safe for concurrent use, and several processes may use the folder.
type Area struct {
	dir        string
	mu         sync.Mutex // held while root is opened, which never changes after that, and for ages
	knownSince knownSince
	root       *os.Root // nil until ready has opened it
	folders    ImportFolders
	store      Store
	audit      *audit.Log
	log        *slog.Logger
	metrics    metrics
}

// Open opens the area in dir, which it makes if it is missing. Where that fails the log says so, and each call that needs the
// area tries again; as long as it fails the call does, with a fault (503). Open registers metrics.
func Open(dir string, folders ImportFolders, st Store, auditLog *audit.Log, log *slog.Logger, registry prometheus.Registerer) *Area {
	a := &Area{dir: dir, knownSince: knownSince{}, folders: folders, store: st, audit: auditLog, log: log}
	a.metrics = newMetrics(a, registry)
	if err := a.ready(); err != nil {
		log.Error("packs can't be imported or applied until this is repaired", "error", err)
	}
	return a
}

// ready opens the area's folder, unless it is open.
func (a *Area) ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.root != nil {
		return nil
	}
	err := os.MkdirAll(a.dir, 0o750) // an error where something else lies there, which opening it could block on
	var root *os.Root
	if err == nil {
		root, err = os.OpenRoot(a.dir)
	}
	if err == nil {
		if _, unsearchable := root.Lstat("."); unsearchable != nil {
			err = errors.Join(unsearchable, root.Close())
		}
	}
	if err == nil {
		a.root = root
		return nil
	}
	fix := "Move away what is in its place"
	if errors.Is(err, fs.ErrPermission) {
		fix = fmt.Sprintf("Run in the Rumi home: sudo chown -R %d:%d %s", os.Geteuid(), os.Getegid(), areaFolder)
	}
	why := err
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		why = errno
	}
	return fault.Unavailable("%s can't be used (%v). %s", areaFolder, why, fix).With("folder_unusable").Because(err)
}

// Close closes the area.
func (a *Area) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.root == nil {
		return nil
	}
	return a.root.Close()
}

// ParseID checks the id of a staging from a request: 16 hexadecimal digits. The error is a fault: 400 "Invalid staging_id".
func ParseID(s string) (string, error) {
	if len(s) != 16 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", fault.Invalid("Invalid staging_id (16 hex digits, as import answers)").With("invalid_staging_id")
	}
	return s, nil
}

// ImportPath imports the folder or archive at a path, as the operator gives it. Errors that are the input's fault have the
// texts of docs/contract.md; nothing is left of what was refused.
func (a *Area) ImportPath(ctx context.Context, given, notes string) (Staging, error) {
	return a.doImport(ctx, Staging{SourcePath: given, Notes: notes}, func(ctx context.Context, to *os.Root, st *Staging) (string, error) {
		if given == "" {
			return "", fault.MissingPath()
		}
		src, err := a.folders.open(given)
		if err != nil {
			return "", err
		}
		defer src.Close()
		if st.InputType = src.kind; src.kind == Folder {
			return filepath.Base(src.rest), a.copyFolder(ctx, src, given, to)
		}
		f, err := src.root.OpenFile(src.rest, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return "", a.folders.openFault(given, err)
		}
		defer f.Close()
		return unpack(ctx, f, given, to, st, (*archive.Archive).Extract)
	})
}

// ImportUpload imports an archive while it is being sent; filename is the sender's name for it. It reads no more than MaxUpload
// bytes. notes is called after content was read, because a form may send them in that order.
func (a *Area) ImportUpload(ctx context.Context, filename string, content io.Reader, notes func() (string, error)) (Staging, error) {
	return a.doImport(ctx, Staging{SourcePath: filename}, func(ctx context.Context, to *os.Root, st *Staging) (string, error) {
		arriving := bufio.NewReader(content)
		if st.InputType = archiveKind(filename); st.InputType == "" {
			begins, err := arriving.Peek(len(zipBegins))
			if err != nil && err != io.EOF {
				return "", err
			}
			if string(begins) != zipBegins {
				return "", unsupported(filename)
			}
			st.InputType = Zip
		}
		f, err := to.OpenFile(uploaded, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return "", err
		}
		defer f.Close()
		n, err := save(f, io.LimitReader(arriving, MaxUpload+1))
		if err != nil {
			return "", err
		}
		if n > MaxUpload {
			return "", fault.BodyTooLarge()
		}
		if st.Notes, err = notes(); err != nil {
			return "", err
		}
		top, err := unpack(ctx, f, filename, to, st, func(in *archive.Archive, ctx context.Context, inside *os.Root) error {
			return in.Consume(ctx, inside, f.Truncate)
		})
		if err != nil {
			return "", err
		}
		return top, to.Remove(uploaded)
	})
}

// save writes content to f in large pieces, even if it arrives in small ones.
func save(f *os.File, content io.Reader) (n int64, err error) {
	pieces := bufio.NewWriterSize(struct{ io.Writer }{f}, 256<<10) // without f's ReadFrom, which would take small ones
	if n, err = io.Copy(pieces, content); err != nil {
		return n, err
	}
	return n, pieces.Flush()
}

// doImport makes a staging. fill puts what is imported into the folder incoming, and returns the name of its top folder. The
// result is audited; if that fails the staging is discarded.
func (a *Area) doImport(ctx context.Context, st Staging, fill func(context.Context, *os.Root, *Staging) (name string, err error)) (_ Staging, err error) {
	a.metrics.running.Inc()
	defer a.metrics.running.Dec()
	defer func(began time.Time) { a.metrics.imports.Done(ctx, began, outcome.Of(err)) }(time.Now())
	if err := a.ready(); err != nil {
		return Staging{}, err
	}
	st.ID, st.CreatedAt, st.Actor = NewID(), time.Now().UTC().Truncate(time.Microsecond), origin.Of(ctx).Actor
	a.removeInterrupted(ctx)
	err = a.noSpace(ctx, a.build(ctx, &st, fill))
	entry := audit.Entry{Category: audit.System, Action: "pack_import_completed", Success: true, Details: map[string]any{
		"source_path": st.SourcePath, "input_type": st.InputType,
	}}
	if err != nil {
		entry.Action, entry.Severity, entry.Success, entry.Error = "pack_import_failed", audit.Warning, false, fault.Of(err).Message
		return Staging{}, errors.Join(err, a.audit.Write(ctx, entry))
	}
	entry.Details["staging_id"], entry.Details["pack_ids"] = st.ID, PackIDs(st)
	if err := a.audit.WriteEach(ctx, entry, Declared(st)); err != nil {
		return Staging{}, errors.Join(err, a.Discard(context.WithoutCancel(ctx), st.ID))
	}
	return st, nil
}

// Declared lists the packs of a staging by the ids in their descriptors.
func Declared(st Staging) (ids []string) {
	for _, p := range st.Packs {
		ids = append(ids, string(p.Declared))
	}
	return ids
}

// build fills a temporary folder, arranges the packs in it, syncs it, renames it to the staging's id, and writes the record.
// After a crash before the record there is only a folder, which Sweep removes.
func (a *Area) build(ctx context.Context, st *Staging, fill func(context.Context, *os.Root, *Staging) (string, error)) error {
	if len(st.Notes) > maxNotes {
		return tooManyNotes()
	}
	temp := tempPrefix + st.ID
	to, release, err := a.makeTemp(temp)
	defer func() {
		if err := folder.Remove(a.root, temp); err != nil {
			a.log.ErrorContext(ctx, "could not remove the temporary files of an import", "error", err)
		}
	}()
	if err != nil {
		return fmt.Errorf("make staging: %w", err)
	}
	defer to.Close()
	defer release()

	name, err := fill(ctx, to, st)
	if err != nil {
		return err
	}
	if len(st.Notes) > maxNotes {
		return tooManyNotes()
	}
	found, err := arrange(to, incoming, name, Payload)
	if err != nil {
		return err
	}
	st.Packs, st.Multi, st.Warnings = found.packs, found.multi, append(st.Warnings, found.warnings...)
	if err := folder.Remove(to, incoming); err != nil { // what lay beside packs/
		return err
	}
	if err := folder.SyncAll(to, "."); err != nil {
		return fmt.Errorf("sync staging: %w", err)
	}
	if err := a.root.Rename(temp, st.ID); err != nil {
		return fmt.Errorf("make staging: %w", err)
	}
	a.observe(st.ID, true)
	if err := errors.Join(folder.Sync(a.root), a.store.AddStaging(ctx, *st)); err != nil {
		return errors.Join(err, folder.Remove(a.root, st.ID))
	}
	return nil
}

func tooManyNotes() error {
	return fault.Invalid("Invalid value for field 'notes': longer than %d bytes", maxNotes).With("invalid_field")
}

// copyFolder imports a folder by the same rules and limits as an archive.
func (a *Area) copyFolder(ctx context.Context, src *source, given string, to *os.Root) error {
	err := folder.Copy(ctx, src.root, src.rest, to, incoming, folder.Options{
		Modes:  folder.Modes{Folder: archive.FolderMode, File: archive.FileMode, Executable: archive.ExecutableMode},
		Limits: folder.Limits{Files: archive.MaxFiles, Folders: archive.MaxFolders, Bytes: archive.MaxBytes},
	})
	if refused, ok := errors.AsType[*folder.RefusedError](err); ok {
		switch {
		case refused.Link:
			return fault.Invalid("Symbolic link in archive rejected: %s", refused.Path).With("archive_link")
		case refused.Reason == folder.Special:
			return fault.Invalid("Special file in archive rejected: %s", refused.Path).With("archive_special_file")
		default:
			return fault.Invalid("Source refused: %v", refused).With("archive_invalid_name")
		}
	}
	if limit, ok := errors.AsType[*folder.LimitError](err); ok {
		return limitFault(src, given, limit)
	}
	if errors.Is(err, fs.ErrPermission) {
		if at, ok := errors.AsType[*folder.EntryError](err); ok {
			return permissionFault(path.Join(given, at.Path), err)
		}
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return a.folders.openFault(given, err)
	}
	return err
}

// limitFault says that a folder exceeds a limit of archives, and what to do if it is a git repository.
func limitFault(src *source, given string, limit *folder.LimitError) error {
	where := fmt.Sprintf(" (in the folder %s", text.Escape(given))
	if info, err := src.root.Lstat(path.Join(src.rest, ".git")); err == nil && info.IsDir() {
		where += "; its .git counts, too. Import an archive without it: git archive --prefix=pack/ -o my_pack.zip HEAD"
	}
	if limit.What == folder.Bytes {
		return fault.Invalid("Archive is too large: %d bytes > %d%s)", limit.Reached, limit.Limit, where).With("archive_too_large")
	}
	return fault.Invalid("Archive contains too many %s: %d > %d%s)", limit.What, limit.Reached, limit.Limit, where).With("archive_too_many_files")
}

// unpack imports an archive with extract, and returns the name of its top folder. The archive's warnings are added to st.
func unpack(ctx context.Context, f *os.File, name string, to *os.Root, st *Staging, extract func(*archive.Archive, context.Context, *os.Root) error) (top string, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", unsupported(name)
	}
	in, err := archive.Open(f, info.Size(), name)
	if err != nil {
		return "", err
	}
	if err := to.Mkdir(incoming, archive.FolderMode); err != nil {
		return "", err
	}
	inside, err := to.OpenRoot(incoming)
	if err != nil {
		return "", err
	}
	defer inside.Close()
	st.Warnings = append(st.Warnings, in.Warnings...)
	return in.Top, extract(in, ctx, inside)
}

// NotFound is the fault for an id that no staging has, or has no longer.
func NotFound(id string) *fault.Fault {
	return fault.NotFound("Staging not found: %s", id).With("staging_not_found")
}

// FindPayload returns a staging and the folder of its packs, which the caller closes. Without one, or if it has expired, the
// error is NotFound.
func (a *Area) FindPayload(ctx context.Context, id string) (Staging, *os.Root, error) {
	if err := a.ready(); err != nil {
		return Staging{}, nil, err
	}
	st, err := a.store.Staging(ctx, id)
	if errors.Is(err, ErrUnknown) || err == nil && a.expired(id, st.CreatedAt, Lifetime) {
		return Staging{}, nil, NotFound(id)
	}
	if err != nil {
		return Staging{}, nil, err
	}
	payload, err := a.root.OpenRoot(filepath.Join(id, Payload))
	if errors.Is(err, fs.ErrNotExist) {
		return Staging{}, nil, NotFound(id).Because(err)
	}
	if err != nil {
		return Staging{}, nil, fmt.Errorf("open staging: %w", err)
	}
	return st, payload, nil
}

// Listed is a staging with its size.
type Listed struct {
	Staging
	Files int
	Bytes int64 // of the files
}

// List lists the stagings that have not expired, the newest first.
func (a *Area) List(ctx context.Context) ([]Listed, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	current, err := a.store.Stagings(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	all := make([]Listed, 0, len(current))
	for _, st := range current {
		if a.expired(st.ID, st.CreatedAt, Lifetime) {
			continue
		}
		one := Listed{Staging: st}
		err := folder.Each(ctx, a.root, path.Join(st.ID, Payload), func(_ string, info fs.FileInfo) {
			one.Files++
			one.Bytes += info.Size()
		})
		if errors.Is(err, fs.ErrNotExist) { // applied or discarded meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list stagings: %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}

// Discard removes a staging. One that doesn't exist is no error.
func (a *Area) Discard(ctx context.Context, id string) error {
	if err := a.ready(); err != nil {
		return err
	}
	if err := a.store.RemoveStaging(ctx, id); err != nil {
		return err
	}
	return folder.Remove(a.root, id)
}

// PackIDs lists the packs of a staging as the API names them: by what a single one declares, or by the folder of each of several.
func PackIDs(st Staging) []string {
	ids := make([]string, 0, len(st.Packs))
	for _, p := range st.Packs {
		ids = append(ids, p.Dir)
	}
	return ids
}
