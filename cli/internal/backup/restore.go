package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Target says where a backup is restored to.
type Target struct {
	Home     string // is made if it is missing
	UID, GID int    // user and group of the services on this machine
	Force    bool   // a home that is in use is set aside
	Postgres bool   // the services here use PostgreSQL, which a restore can't fill
	Now      time.Time
}

// Restored says what a restore did.
type Restored struct {
	Report
	Home     string   `json:"home"`
	SetAside string   `json:"set_aside,omitzero"` // the folder with what was there before
	Woken    int      `json:"packs_to_start"`     // packs that ran, and start again with the suite
	Beside   []string `json:"beside,omitempty"`   // files that were there already: the backup's are beside them
}

// settingsFiles are the operator's own files in a home. One that is there is never replaced.
var settingsFiles = []string{".env", "docker-compose.override.yml"}

// Restore verifies a backup, and makes its home. Nothing is changed before everything was read and compared: then the home is written beside
// the present one, read again and compared again, and renamed into place. What was there is set aside, never removed.
//
// Owners are those of this machine: what belonged to the operator belongs to the owner of the target folder, what belonged to the services'
// user to t.UID. A report that is not OK has problems of the home as it was; a damaged backup is an error, and changes nothing.
func Restore(ctx context.Context, s Source, t Target) (Restored, error) {
	r, err := s.restore(ctx, t)
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", s.File, err)
	}
	return r, nil
}

func (s Source) restore(ctx context.Context, t Target) (result Restored, err error) {
	if t.Postgres {
		return result, errors.New("the services here use PostgreSQL (RUMI_DATABASE_URL), and would not see the databases of the backup, which are SQLite's. Restore without RUMI_DATABASE_URL")
	}
	if err := os.MkdirAll(t.Home, 0o755); err != nil {
		return result, err
	}
	used, err := t.inUse()
	if err != nil {
		return result, err
	}
	if used && !t.Force {
		return result, fmt.Errorf("%s is in use: it has packs, secrets or databases. To put them aside and restore, repeat with --force", t.Home)
	}
	v, err := s.inspect(ctx)
	if err != nil {
		return result, err
	}
	defer v.close()
	result = Restored{Report: v.report, Home: t.Home}
	if v.report.Damaged() {
		return result, fmt.Errorf("it is damaged, and nothing was changed: %s", first(v.report.Problems))
	}
	if err := roomFor(t.Home, v.m.Bytes); err != nil {
		return result, err
	}
	dir, err := os.MkdirTemp(t.Home, ".rumi-restore-")
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	if err := s.extract(ctx, t, v.m, dir); err != nil {
		return result, err
	}
	if result.Woken, err = wakePacks(ctx, dir); err != nil {
		return result, err
	}
	if _, err := t.inUse(); err != nil { // the suite may have been started meanwhile
		return result, err
	}
	if err := t.place(dir, v.m, &result); err != nil {
		return result, err
	}
	return result, nil
}

func first(problems []Problem) string {
	text := problems[0].String()
	if more := len(problems) - 1; more > 0 {
		text = fmt.Sprintf("%s (and %d more; rumi backup verify lists all)", text, more)
	}
	return text
}

// inUse says whether the target has anything that init doesn't make. It fails while the suite runs on it.
func (t Target) inUse() (bool, error) {
	running, err := Running(t.Home)
	if err != nil {
		return false, err
	}
	if len(running) > 0 {
		return false, fmt.Errorf("the suite runs on %s (%s): stop it first, with: docker compose down", t.Home, strings.Join(running, ", "))
	}
	for _, pattern := range []string{"ecosystem/[^.]*", "user_data/secrets/*.json", stateDir + "/*/*.db", "user_data/packs/[^.]*"} {
		found, err := filepath.Glob(filepath.Join(t.Home, pattern))
		if err != nil || len(found) > 0 {
			return len(found) > 0, err
		}
	}
	return false, nil
}

// extract writes the home of a backup into an empty folder, and reads all of it again.
func (s Source) extract(ctx context.Context, t Target, m *manifest, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	owners, err := t.owners(m.Owners)
	if err != nil {
		return err
	}
	x := &extraction{ctx: ctx, root: root, m: m, owners: owners}
	steps := []func() error{x.folders, func() error { return s.each(ctx, x.entry) }, x.links, x.finish, x.sync, x.compare}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mapping says which users and groups of the backup are which here.
type mapping struct{ users, groups map[int]int }

func (t Target) owners(from Owners) (mapping, error) {
	var operator unix.Stat_t
	if err := unix.Stat(t.Home, &operator); err != nil {
		return mapping{}, err
	}
	// The services' come last: if both are one user, it is theirs.
	return mapping{
		users:  map[int]int{from.OperatorUID: int(operator.Uid), from.ServiceUID: t.UID},
		groups: map[int]int{from.OperatorGID: int(operator.Gid), from.ServiceGID: t.GID},
	}, nil
}

func mapped(ids map[int]int, id int) int {
	if here, ok := ids[id]; ok {
		return here
	}
	return id
}

// extraction writes a backup into an empty folder that only root can enter. Every path is made by os.Root, which never leaves the folder, and
// links are made when everything else is there, so nothing is written through one.
type extraction struct {
	ctx    context.Context
	root   *os.Root
	m      *manifest
	owners mapping
}

func (x *extraction) folders() error {
	for _, name := range x.m.sorted() {
		if x.m.entries[name].Kind == folderKind {
			if err := x.root.Mkdir(name, 0o700); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry writes one file, if it counts.
func (x *extraction) entry(number int, h *tar.Header, content io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	e, ok := x.m.entries[name]
	if !ok || e.Kind != fileKind || e.Number != number {
		return nil
	}
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), content)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if n != e.Size || hex.EncodeToString(hash.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("%s is not what it was a moment ago: the backup was changed while it was read", name)
	}
	return x.dress(f, e)
}

// dress gives an open file or folder its owner, its access control lists and its mode, in this order: each changes what follows.
func (x *extraction) dress(f *os.File, e Entry) error {
	uid, gid := mapped(x.owners.users, e.UID), mapped(x.owners.groups, e.GID)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != uid || int(st.Gid) != gid {
		if err := f.Chown(uid, gid); err != nil {
			return fmt.Errorf("give %s its owner (this needs root): %w", e.Path, err)
		}
	}
	for name, list := range map[string][]byte{accessList: e.Access, defaultList: e.Default} {
		if len(list) == 0 {
			continue
		}
		err := unix.Fsetxattr(int(f.Fd()), name, x.owners.list(list), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set the access control list of %s: %w", e.Path, err)
		}
	}
	if err := unix.Fchmod(int(f.Fd()), e.Mode); err != nil {
		return fmt.Errorf("change mode of %s: %w", e.Path, err)
	}
	return nil
}

// list is an access control list with the ids of this machine. Its form is that of libs/acl: a version, then entries of tag, permission and id.
func (o mapping) list(list []byte) []byte {
	const head, entry, user, group = 4, 8, 0x02, 0x08
	out := bytes.Clone(list)
	for at := head; at+entry <= len(out); at += entry {
		id := out[at+4 : at+8]
		switch binary.LittleEndian.Uint16(out[at:]) {
		case user:
			binary.LittleEndian.PutUint32(id, uint32(mapped(o.users, int(binary.LittleEndian.Uint32(id)))))
		case group:
			binary.LittleEndian.PutUint32(id, uint32(mapped(o.groups, int(binary.LittleEndian.Uint32(id)))))
		}
	}
	return out
}

func (x *extraction) links() error {
	for name, e := range x.m.entries {
		if e.Kind != linkKind {
			continue
		}
		if err := x.root.Symlink(e.Link, name); err != nil {
			return err
		}
		if err := x.root.Lchown(name, mapped(x.owners.users, e.UID), mapped(x.owners.groups, e.GID)); err != nil {
			return fmt.Errorf("give %s its owner (this needs root): %w", name, err)
		}
	}
	return nil
}

// finish gives the folders their owners and modes, the inner ones first: a mode may close a folder to its maker.
func (x *extraction) finish() error {
	names := x.m.sorted()
	slices.Reverse(names)
	for _, name := range names {
		e := x.m.entries[name]
		if e.Kind != folderKind {
			continue
		}
		f, err := x.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(x.dress(f, e), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (x *extraction) sync() error {
	dir, err := x.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// compare reads back what was written.
func (x *extraction) compare() error {
	left := len(x.m.entries)
	w := walker{ctx: x.ctx, skip: func(string) bool { return false }, odd: func(string, string) {}}
	w.visit = func(n node, parent int, base string) error {
		e, ok := x.m.entries[n.path]
		if !ok {
			return fmt.Errorf("%s was not restored, and is there", n.path)
		}
		left--
		if e.Kind != linkKind && n.st.Mode&0o7777 != e.Mode {
			return fmt.Errorf("%s has mode %04o after the restore, want %04o", n.path, n.st.Mode&0o7777, e.Mode)
		}
		if e.Kind == fileKind {
			return compareFile(x.ctx, e, parent, base)
		}
		return nil
	}
	tops, err := fs.ReadDir(x.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := w.walk(x.root, top.Name()); err != nil {
			return err
		}
	}
	if left != 0 {
		return fmt.Errorf("%d files and folders are missing after the restore", left)
	}
	return nil
}

func compareFile(ctx context.Context, e Entry, parent int, base string) error {
	f, err := openFile(parent, base)
	if err != nil || f == nil {
		return errors.Join(fmt.Errorf("%s can't be read after the restore", e.Path), err)
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, &within{ctx: ctx, r: f})
	if err != nil {
		return err
	}
	if n != e.Size || hex.EncodeToString(hash.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("%s has another content after the restore", e.Path)
	}
	return nil
}

// place renames what was written into place, after what is there was set aside.
func (t Target) place(dir string, m *manifest, result *Restored) error {
	aside := filepath.Join(t.Home, "rumi-replaced-"+t.Now.UTC().Format("20060102T150405Z"))
	for _, name := range []string{"ecosystem", "user_data"} {
		if _, ok := m.entries[name]; !ok {
			continue
		}
		if _, err := os.Lstat(filepath.Join(t.Home, name)); err == nil {
			if err := os.MkdirAll(aside, 0o700); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(t.Home, name), filepath.Join(aside, name)); err != nil {
				return fmt.Errorf("set %s aside: %w", name, err)
			}
			result.SetAside = aside
		}
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(t.Home, name)); err != nil {
			return fmt.Errorf("put %s in place: %w; what was there is in %s", name, err, aside)
		}
	}
	for _, name := range settingsFiles {
		if _, ok := m.entries[name]; !ok {
			continue
		}
		to := filepath.Join(t.Home, name)
		if _, err := os.Lstat(to); err == nil {
			to += ".restored"
			result.Beside = append(result.Beside, path.Base(to))
		}
		if err := os.Rename(filepath.Join(dir, name), to); err != nil {
			return err
		}
	}
	home, err := os.Open(t.Home)
	if err != nil {
		return err
	}
	return errors.Join(home.Sync(), home.Close())
}
