package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/identity"
)

const (
	maxRounds  = 20                     // how often what has changed is taken again until everything fits
	roundPause = 100 * time.Millisecond // after a round that didn't fit; it grows by as much each time
	fileTries  = 3                      // how often a file of a pack is read that changes meanwhile
	unitTries  = 5                      // how often a unit is
	lockWait   = 30 * time.Second       // for a change of the installed packs to end
	sparse     = 1 << 30                // a file of more bytes that are mostly holes isn't read: see tooSparse
)

// Options say what to back up, and for whom.
type Options struct {
	Home       string // the Rumi home
	Recipients []age.Recipient
	Without    []string // parts that are left out: see Parts
	Rehearse   bool     // Create also restores the backup into a scratch folder
	Version    string   // of the suite
	Postgres   string   // URL of the database, "" for SQLite
	Now        func() time.Time
	Log        *slog.Logger

	avoid unix.Stat_t  // the folder that the backup is written to, which a mount may give another path
	step  func(string) // called between the steps; tests change the home there
}

// Parts are the parts of a home that Options.Without may name.
func Parts() (parts []string) {
	for _, a := range areas {
		if a.part != "" {
			parts = append(parts, a.part)
		}
	}
	return parts
}

// Write writes a backup of a home to w, and returns what is in it. The suite may run. Problems in the summary are references that didn't fit,
// however often what has changed was taken again: then the home itself has them. An error says that w has no backup.
func Write(ctx context.Context, w io.Writer, o Options) (Summary, error) {
	b, err := newWriter(ctx, o)
	if err != nil {
		return Summary{}, err
	}
	defer b.close()
	summary, err := b.write(w)
	if err != nil {
		return Summary{}, fmt.Errorf("back up: %w", err)
	}
	return summary, nil
}

// errPostgres refuses a home whose databases aren't in it: half a backup would look like a whole one.
var errPostgres = errors.New("the services use PostgreSQL (RUMI_DATABASE_URL), which this backup can't have in it. Back the database up with pg_dump, " +
	"and the home with tar, while the suite is stopped")

// writer is one backup that is being written.
type writer struct {
	Options
	ctx     context.Context
	root    *os.Root
	out     *tar.Writer
	m       *manifest
	content *content
	copies  *copies
	number  int                    // of the next entry of the tar
	taken   map[string]fingerprint // of each unit, as it was taken
	pieces  map[string][]string    // paths of each unit in the manifest
}

func newWriter(ctx context.Context, o Options) (*writer, error) {
	if o.Postgres != "" {
		return nil, errPostgres
	}
	root, err := os.OpenRoot(o.Home)
	if err != nil {
		return nil, fmt.Errorf("open the Rumi home: %w", err)
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	if _, err := root.Stat("user_data"); err != nil {
		return nil, errors.Join(fmt.Errorf("%s has no user_data: it is no Rumi home", o.Home), root.Close())
	}
	c, err := newCopies(filepath.Join(o.Home, scratchDir))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a folder for copies of databases: %w", err), root.Close())
	}
	return &writer{
		Options: o, ctx: ctx, root: root, content: newContent(), copies: c,
		m:     &manifest{entries: map[string]Entry{}},
		taken: map[string]fingerprint{}, pieces: map[string][]string{},
	}, nil
}

func (b *writer) close() {
	b.copies.close()
	_ = b.root.Close()
}

// write writes the whole stream.
func (b *writer) write(w io.Writer) (Summary, error) {
	if err := b.head(); err != nil {
		return Summary{}, err
	}
	sealed, err := age.Encrypt(w, b.Recipients...)
	if err != nil {
		return Summary{}, fmt.Errorf("encrypt: %w", err)
	}
	packed, err := zstd.NewWriter(sealed, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
	if err != nil {
		return Summary{}, err
	}
	b.out = tar.NewWriter(packed)
	steps := []func() error{b.putHead, b.rounds, b.putDatabases, b.putManifest, b.out.Close, packed.Close, sealed.Close}
	for _, step := range steps {
		if err := step(); err != nil {
			return Summary{}, err
		}
	}
	return b.m.Summary, nil
}

// head finds out what home it is. Its owner is the operator; the folder with the key of the secrets belongs to the services' user and group.
func (b *writer) head() error {
	id, err := identity.ReadHome(filepath.Join(b.Home, settingsDir, identity.HomeFile))
	if err != nil {
		return fmt.Errorf("read the id of the home: %w", err)
	}
	var operator, service unix.Stat_t
	if err := errors.Join(unix.Stat(b.Home, &operator), unix.Stat(filepath.Join(b.Home, settingsDir, "secrets"), &service)); err != nil {
		return err
	}
	b.m.Head = Head{
		Format: formatVersion, SuiteVersion: b.Version, HomeID: id, CreatedAt: b.Now().UTC().Truncate(time.Second),
		Owners: Owners{ServiceUID: int(service.Uid), ServiceGID: int(service.Gid), OperatorUID: int(operator.Uid), OperatorGID: int(operator.Gid)},
	}
	return nil
}

func (b *writer) putHead() error {
	data, err := json.Marshal(b.m.Head)
	if err != nil {
		return err
	}
	return b.putMeta(headName, bytes.NewReader(data), int64(len(data)))
}

// putMeta writes an entry that is about the backup itself.
func (b *writer) putMeta(name string, data io.Reader, size int64) error {
	b.number++
	if err := b.out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: b.m.CreatedAt, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(b.out, data)
	return err
}

// rounds takes the files, then the databases, and again what has changed, until the databases name nothing that the files lack.
func (b *writer) rounds() error {
	for round := 1; ; round++ {
		number := b.number
		if err := b.takeFiles(round == 1); err != nil {
			return err
		}
		b.step("files")
		if err := b.takeDatabases(); err != nil {
			return err
		}
		b.step("databases")
		problems, err := checkReferences(b.ctx, b.m, b.content, b.copies.files)
		if err != nil {
			return err
		}
		// A round that took nothing new and found the same says that nothing is under way: the home is like that.
		settled := b.number == number && slices.Equal(problems, b.m.Problems)
		b.m.Problems = problems
		if round == maxRounds || settled || !slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning }) {
			return nil
		}
		b.Log.Debug("taking again what has changed meanwhile", "round", round, "first", problems[0].String())
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(time.Duration(round) * roundPause):
		}
	}
}

// takeFiles takes the areas. After the first round these are only the units that have changed and the new names of immutable areas.
func (b *writer) takeFiles(first bool) error {
	b.m.LeftOut = slices.DeleteFunc(b.m.LeftOut, func(l LeftOut) bool { a, ok := areaOf(l.Path); return ok && a.how == units })
	again := false // the key of the secrets was taken again: so are the secrets, to be checked with it
	for _, a := range areas {
		var err error
		switch {
		case a.part != "" && slices.Contains(b.Without, a.part):
			if first {
				b.m.LeftOut = append(b.m.LeftOut, LeftOut{a.path, "as asked"})
			}
		case a.how == leftOut:
		case a.how == units:
			if a.path == secretsPath && again {
				delete(b.taken, a.path)
			}
			before := b.taken[a.path]
			err = b.takeUnits(a)
			again = again || a.path == settingsDir && before != b.taken[a.path]
		case first || a.how == immutable:
			err = b.takeTree(a, a.path)
		}
		if err != nil {
			return err
		}
		b.step(a.path)
	}
	return nil
}

// takeUnits takes the units of an area that have changed since they were taken, and forgets those that are gone.
func (b *writer) takeUnits(a area) error {
	found := map[string]bool{}
	w := walker{ctx: b.ctx, odd: b.odd, skip: skipped(a.path)}
	w.visit = func(n node, parent int, base string) error {
		if below := strings.Count(strings.TrimPrefix(n.path, a.path), "/"); below < a.depth && n.kind() == unix.S_IFDIR {
			if _, ok := b.m.entries[n.path]; ok {
				return nil
			}
			return b.take(a, n, parent, base) // a folder around units
		} else if below > a.depth {
			return nil
		}
		found[n.path] = true
		return nil
	}
	w.skip = func(name string) bool {
		return skipped(a.path)(name) || strings.Count(strings.TrimPrefix(name, a.path), "/") > a.depth
	}
	if err := w.walk(b.root, a.path); err != nil {
		return err
	}
	for name := range b.taken {
		if own, _ := areaOf(name); own.path == a.path && !found[name] {
			b.forget(name)
		}
	}
	for name := range found {
		if err := b.takeUnit(a, name); err != nil {
			return err
		}
	}
	return nil
}

// takeUnit takes a unit until it doesn't change while it is read.
func (b *writer) takeUnit(a area, name string) error {
	before, err := fingerprintOf(b.ctx, b.root, name)
	if err != nil || before == b.taken[name] {
		return err
	}
	for range unitTries {
		b.forget(name)
		b.pieces[name] = []string{}
		if err := b.takeTree(a, name); err != nil {
			return err
		}
		after, err := fingerprintOf(b.ctx, b.root, name)
		if err != nil {
			return err
		}
		if b.taken[name] = before; before == after {
			return nil
		}
		before = after
	}
	b.taken[name] = fingerprint{} // the next round takes it again
	return nil
}

// forget removes a unit from the manifest.
func (b *writer) forget(name string) {
	for _, piece := range b.pieces[name] {
		delete(b.m.entries, piece)
	}
	delete(b.pieces, name)
	delete(b.taken, name)
}

// takeTree takes everything at a path, without other areas in it.
func (b *writer) takeTree(a area, name string) error {
	w := walker{ctx: b.ctx, skip: skipped(name), odd: b.odd, avoid: b.avoid, visit: func(n node, parent int, base string) error {
		if isDatabase(n.path) {
			return nil
		}
		if _, ok := b.m.entries[n.path]; ok && a.how == immutable {
			return nil
		}
		if err := b.take(a, n, parent, base); err != nil {
			return err
		}
		if pieces, ok := b.pieces[name]; ok {
			b.pieces[name] = append(pieces, n.path)
		}
		return nil
	}}
	return w.walk(b.root, name)
}

func (b *writer) odd(name, why string) { b.m.LeftOut = append(b.m.LeftOut, LeftOut{name, why}) }

// take takes one node.
func (b *writer) take(a area, n node, parent int, base string) error {
	e := Entry{Path: n.path, Mode: n.st.Mode & 0o7777, UID: int(n.st.Uid), GID: int(n.st.Gid)}
	attributes, err := lists(n, parent, base)
	if err != nil {
		return err
	}
	e.Access, e.Default = attributes[accessList], attributes[defaultList]
	switch n.kind() {
	case unix.S_IFDIR:
		e.Kind = folderKind
		return b.put(e, nil, n)
	case unix.S_IFLNK:
		e.Kind, e.Link = linkKind, n.link
		return b.put(e, nil, n)
	}
	e.Kind = fileKind
	for try := 1; ; try++ {
		changed, err := b.takeFile(a, e, parent, base)
		if err != nil || !changed || a.how != packData {
			return err
		}
		if try == fileTries {
			b.m.Notes = slices.DeleteFunc(b.m.Notes, func(l LeftOut) bool { return l.Path == n.path })
			b.m.Notes = append(b.m.Notes, LeftOut{n.path, "it changed while it was read: what is in the backup may be of several moments"})
			return nil
		}
	}
}

// takeFile takes one file as it is now; changed says that it is another one by the end.
func (b *writer) takeFile(a area, e Entry, parent int, base string) (changed bool, err error) {
	f, err := openFile(parent, base)
	if err != nil || f == nil {
		if err != nil {
			err = &fs.PathError{Op: "open", Path: e.Path, Err: err}
		}
		return false, err
	}
	defer f.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		return false, &fs.PathError{Op: "stat", Path: e.Path, Err: err}
	}
	if tooSparse(&before) {
		b.odd(e.Path, "it claims a size that is almost all holes")
		return false, nil
	}
	e.Mode, e.Size = before.Mode&0o7777, before.Size
	if a.how == grown && strings.HasSuffix(e.Path, ".jsonl") { // not a compressed day of the audit log
		if e.Size, err = wholeLines(f, before.Size); err != nil {
			return false, &fs.PathError{Op: "read", Path: e.Path, Err: err}
		}
	}
	if err := b.put(e, f, node{path: e.Path, st: before}); err != nil {
		return false, err
	}
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return false, &fs.PathError{Op: "stat", Path: e.Path, Err: err}
	}
	return before.Size != after.Size || before.Mtim != after.Mtim || before.Ctim != after.Ctim, nil
}

// tooSparse says whether a file is almost all holes. A pack may make a file of 8 EiB in an instant; to read it would take years.
func tooSparse(st *unix.Stat_t) bool { return st.Size > sparse && st.Blocks*512 < st.Size/100 }

// wholeLines is how much of a file that is appended to is whole lines: the last one may be being written.
func wholeLines(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		from := max(0, end-int64(len(buf)))
		if _, err := f.ReadAt(buf[:end-from], from); err != nil && err != io.EOF {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:end-from], '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// put writes an entry, with exactly e.Size bytes of content: what the file has grown by since is left out, what it has shrunk by is filled up.
func (b *writer) put(e Entry, from io.Reader, n node) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID, Size: e.Size, ModTime: time.Unix(n.st.Mtim.Sec, 0), Format: tar.FormatPAX}
	switch e.Kind {
	case folderKind:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case linkKind:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	default:
		h.Typeflag = tar.TypeReg
	}
	if err := b.out.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if e.Kind == fileKind {
		var err error
		if e.SHA256, err = b.copy(e, from); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	e.Number = b.number
	b.number++
	b.m.entries[e.Path] = e
	return nil
}

// copy writes the content of a file and returns its SHA-256.
func (b *writer) copy(e Entry, from io.Reader) (string, error) {
	hash := sha256.New()
	to := io.MultiWriter(b.out, hash)
	look := b.content.sinkOf(e.Path)
	if look != nil {
		to = io.MultiWriter(b.out, hash, look)
	}
	n, err := io.Copy(to, &within{ctx: b.ctx, r: io.LimitReader(from, e.Size)})
	if err == nil && n < e.Size {
		_, err = io.CopyN(to, zeros{}, e.Size-n)
	}
	if err == nil && look != nil {
		look.end()
	}
	return hex.EncodeToString(hash.Sum(nil)), err
}

// within ends a reading when its context ends.
type within struct {
	ctx context.Context
	r   io.Reader
}

func (w *within) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}

// zeros are endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// takeDatabases copies all databases. Meanwhile no pack is installed or removed: otherwise the registry's journal would name an
// installation under way, whose folders a restored home has not.
func (b *writer) takeDatabases() error {
	release, err := b.lockPacks()
	if err != nil {
		return err
	}
	defer release()
	clear(b.copies.files)
	names, err := databasesOf(b.Home)
	if err != nil {
		return err
	}
	for _, name := range names {
		target := b.copies.target(name)
		for _, old := range []string{target, target + "-wal", target + "-shm", target + "-journal"} {
			if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := snapshot(b.ctx, filepath.Join(b.Home, name), target); err != nil {
			return err
		}
		b.copies.files[name] = target
	}
	return nil
}

// lockPacks waits until no pack is being installed or removed, and keeps it so. The lock file is pack-registry's.
func (b *writer) lockPacks() (release func(), err error) {
	if _, err := b.root.Stat(stagingDir); errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(b.ctx, lockWait)
	defer cancel()
	lock, err := b.root.OpenFile(stagingDir+"/.lock", os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no pack was ever installed
	} else if err != nil {
		return nil, err
	}
	for {
		err := flock.TryOpen(lock, flock.Exclusive)
		if err == nil {
			return func() { _ = lock.Close() }, nil
		}
		if !errors.Is(err, flock.ErrLocked) {
			return nil, errors.Join(err, lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("a change of the installed packs has not ended for %v; try again later", lockWait), lock.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// putDatabases writes the last copies of the databases, with the owners and modes of the originals.
func (b *writer) putDatabases() error {
	for name, file := range b.copies.files {
		d, err := describe(b.ctx, file, name)
		if err != nil {
			return err
		}
		b.m.Databases = append(b.m.Databases, d)
		if err := b.putDatabase(name, file); err != nil {
			return err
		}
	}
	slices.SortFunc(b.m.Databases, func(x, y Database) int { return strings.Compare(x.Path, y.Path) })
	return nil
}

func (b *writer) putDatabase(name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Stat()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(b.Home, name), &st); err != nil {
		return fmt.Errorf("inspect %s: %w", name, err)
	}
	e := Entry{Path: name, Kind: fileKind, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), Size: size.Size()}
	return b.put(e, f, node{path: name, st: st})
}

func (b *writer) putManifest() error {
	for _, list := range []*[]LeftOut{&b.m.LeftOut, &b.m.Notes} {
		slices.SortFunc(*list, func(x, y LeftOut) int { return strings.Compare(x.Path, y.Path) })
		*list = slices.Compact(*list)
	}
	file, err := os.Create(b.copies.target(manifestName)) // not in memory: it has a line for each file
	if err != nil {
		return err
	}
	defer file.Close()
	if err := b.m.write(file); err != nil {
		return err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	return b.putMeta(manifestName, file, size)
}
