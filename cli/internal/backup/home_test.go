package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/cli/internal/setup"
	"github.com/rumi-ai/rumi/libs/bundle"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
)

const operatorUID, operatorGID, serviceID, otherID = 4001, 4002, 1099, 2099

// home is a Rumi home as init makes it, with the services' databases.
type home struct {
	t    testing.TB
	dir  string
	key  *age.X25519Identity
	dbs  map[string]*store.DB
	log  *slog.Logger
	temp string
}

// schemas are the tables that a backup looks into, as the services' migrations make them.
var schemas = map[string]string{
	"approval": `CREATE TABLE records (pack_id TEXT PRIMARY KEY, status TEXT NOT NULL, digest TEXT NOT NULL)`,
	"capability-broker": `CREATE TABLE capability_trust (pack_id TEXT, slug TEXT, folder_digest TEXT); CREATE TABLE capability_grants (principal_id TEXT, permission_id TEXT);
		CREATE TABLE capability_containers (node TEXT NOT NULL, pack_id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (node, pack_id))`,
	"egress-proxy":  `CREATE TABLE network_grants (pack_id TEXT PRIMARY KEY)`,
	"pack-registry": `CREATE TABLE staging (staging_id TEXT PRIMARY KEY); CREATE TABLE apply_operation (operation_id TEXT PRIMARY KEY)`,
	"pip-installer": `CREATE TABLE candidates (candidate_key TEXT PRIMARY KEY, state TEXT NOT NULL, payload TEXT NOT NULL)`,
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func newHome(t testing.TB) *home {
	t.Helper()
	testenv.NeedsRoot(t, "only it can give files to other users")
	top := t.TempDir()
	key, err := age.GenerateX25519Identity()
	must(t, err)
	h := &home{t: t, dir: filepath.Join(top, "home"), key: key, dbs: map[string]*store.DB{}, log: slog.New(slog.DiscardHandler), temp: top}
	must(t, os.Mkdir(h.dir, 0o755), os.Chown(h.dir, operatorUID, operatorGID))
	must(t, setup.Run(h.config(serviceID), h.log))
	for service, schema := range schemas {
		migrations := fstest.MapFS{"00001_x.sql": {Data: []byte("-- +goose Up\n" + schema + ";\n")}}
		db, err := store.Open(t.Context(), store.Config{Dir: h.path(stateDir, service), Service: service}, migrations)
		must(t, err)
		h.dbs[service] = db
	}
	t.Cleanup(h.stop)
	return h
}

func (h *home) config(uid int) setup.Config {
	return setup.Config{
		Home: h.dir, EgressSockets: filepath.Join(h.temp, "run/egress"), CapabilitySockets: filepath.Join(h.temp, "run/capability"),
		UID: uid, GID: uid, EgressGID: uid, CapabilityGID: uid, Now: time.Now(),
	}
}

// stop closes the databases, as the end of the suite does.
func (h *home) stop() {
	for service, db := range h.dbs {
		_ = db.Close()
		delete(h.dbs, service)
	}
}

func (h *home) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *home) exec(service, query string, args ...any) {
	h.t.Helper()
	err := h.dbs[service].Tx(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
	must(h.t, err)
}

func (h *home) write(name, text string) {
	h.t.Helper()
	must(h.t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755), os.WriteFile(h.path(name), []byte(text), 0o644))
}

// pack puts a folder into ecosystem/ in one step, as an apply does.
func (h *home) pack(id, text string) {
	h.t.Helper()
	next := h.path("ecosystem", ".rumi-new-"+id)
	must(h.t, os.MkdirAll(next, 0o775), os.WriteFile(filepath.Join(next, "ecosystem.json"), []byte(`{"pack_id":"`+id+`"}`), 0o664),
		os.WriteFile(filepath.Join(next, "main.py"), []byte(text), 0o664))
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, h.path("ecosystem", id), unix.RENAME_EXCHANGE); err != nil {
		must(h.t, os.Rename(next, h.path("ecosystem", id)))
	}
	must(h.t, os.RemoveAll(next))
}

// approve does what approval does, in its order: blobs, manifest, record.
func (h *home) approve(id string) (digest string) {
	h.t.Helper()
	root, err := os.OpenRoot(h.path("ecosystem", id))
	must(h.t, err)
	defer root.Close()
	m, err := tree.Scan(context.Background(), root, nil)
	must(h.t, err)
	var contents, index []byte
	for _, e := range m.Entries {
		if e.Kind == tree.File {
			data, err := os.ReadFile(h.path("ecosystem", id, e.Path))
			must(h.t, err)
			contents = append(contents, data...)
			index = bundle.AppendEntry(index, sha256.Sum256(data), int64(len(data)))
		}
	}
	digits := strings.TrimPrefix(m.Digest(), "sha256:")
	var list bytes.Buffer
	must(h.t, tree.WriteManifest(&list, m))
	h.put("user_data/approved/bundles/"+digits, bundle.AppendFooter(append(contents, index...), index))
	h.put("user_data/approved/manifests/"+digits+".json", list.Bytes())
	h.exec("approval", `INSERT INTO records (pack_id, status, digest) VALUES (?, 'approved', ?)
		ON CONFLICT (pack_id) DO UPDATE SET status = 'approved', digest = excluded.digest`, id, m.Digest())
	return m.Digest()
}

// put writes a file and gives it its name, as the services do.
func (h *home) put(name string, data []byte) {
	h.t.Helper()
	must(h.t, os.MkdirAll(filepath.Dir(h.path(name)), 0o750), os.WriteFile(h.path(filepath.Dir(name), ".x.new"), data, 0o640),
		os.Rename(h.path(filepath.Dir(name), ".x.new"), h.path(name)), os.Chown(h.path(name), serviceID, operatorGID))
}

// trust installs a handler, in the broker's order: the trust, then the copy.
func (h *home) trust(id, slug, text string) {
	h.t.Helper()
	dir := h.temp + "/handler-" + id
	must(h.t, os.RemoveAll(dir), os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/handler.py", []byte(text), 0o444), os.Chmod(dir+"/handler.py", 0o444), os.Chmod(dir, 0o555))
	root, err := os.OpenRoot(dir)
	must(h.t, err)
	m, err := tree.Scan(context.Background(), root, nil)
	must(h.t, err, root.Close())
	h.exec("capability-broker", `DELETE FROM capability_trust WHERE pack_id = ? AND slug = ?`, id, slug)
	h.exec("capability-broker", `INSERT INTO capability_trust VALUES (?, ?, ?)`, id, slug, m.Digest())
	to := h.path(handlersDir, id, slug)
	must(h.t, os.MkdirAll(filepath.Dir(to), 0o750), tree.RemoveAll(to), os.Rename(dir, to))
}

func (h *home) environment(id, text string) {
	h.t.Helper()
	dir := h.temp + "/env-" + id
	must(h.t, os.RemoveAll(dir), os.MkdirAll(dir+"/tree/idna", 0o755), os.WriteFile(dir+"/tree/idna/core.py", []byte(text), 0o444),
		os.Chmod(dir+"/tree/idna", 0o555), os.Chmod(dir+"/tree", 0o555))
	root, err := os.OpenRoot(dir + "/tree")
	must(h.t, err)
	m, err := tree.Scan(context.Background(), root, nil)
	must(h.t, err, root.Close())
	sum := sha256.Sum256([]byte(text))
	must(h.t, os.MkdirAll(h.path(environmentsDir), 0o750), os.Rename(dir, h.path(environmentsDir, strings.TrimPrefix(m.Digest(), "sha256:"))))
	h.exec("pip-installer", `INSERT INTO candidates VALUES (?, 'installed', ?)`, id+":requirements.lock:"+hex.EncodeToString(sum[:]),
		fmt.Sprintf(`{"relpath":"requirements.lock","sha256":"%x","environment":{"digest":"%s"}}`, sum, m.Digest()))
}

func (h *home) secret(key, value string) {
	h.t.Helper()
	cipher, err := keyset.Load(h.path(keyPath))
	must(h.t, err)
	sealed, err := cipher.Encrypt([]byte(value), []byte(key))
	must(h.t, err)
	h.put(secretsPath+"/"+key+".json", fmt.Appendf(nil, `{"version":1,"key":%q,"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","sealed":%q}`, key, base64of(sealed)))
}

// fill puts one of everything into the home.
func (h *home) fill() {
	h.pack("alpha", "print('alpha')")
	h.pack("beta", strings.Repeat("x = 1\n", 50_000))
	h.approve("alpha")
	h.approve("beta")
	h.trust("alpha", "sum", "def execute(c, a): return 1")
	h.environment("alpha", "idna==3.10")
	h.secret("TOKEN", "hunter2-hunter2")
	h.exec("egress-proxy", `INSERT INTO network_grants VALUES ('alpha')`)
	h.exec("capability-broker", `INSERT INTO capability_grants VALUES ('alpha', 'secrets.get')`)
	h.write("user_data/packs/alpha/data/file", "data")
	h.write("user_data/packs/alpha/data/x.lock", "a pack's own")
	h.write("user_data/shared/lent/file", "shared")
	must(h.t, os.Symlink("../../../../etc/passwd", h.path("user_data/packs/alpha/data/link")), unix.Mkfifo(h.path("user_data/packs/alpha/data/fifo"), 0o600))
	h.write("user_data/audit/system_2026-01-01.jsonl", "{\"a\":1}\n{\"b\":2}\n{\"torn")
	h.write("user_data/import/mine.zip", "zip")
	h.write("user_data/something_new/file", "undeclared")
	h.write(".env", "RUMI_PORT=9\n")
}

func (h *home) options() Options {
	return Options{Home: h.dir, Recipients: []age.Recipient{h.key.Recipient()}, Version: "test", Now: time.Now, Log: h.log}
}

func (h *home) create(o Options) (string, Report) {
	h.t.Helper()
	file := filepath.Join(h.temp, fmt.Sprintf("backup-%d.age", time.Now().UnixNano()))
	report, err := Create(context.Background(), file, false, o)
	must(h.t, err)
	return file, report
}

func (h *home) source(file string) Source {
	return Source{File: file, Identities: []age.Identity{h.key}, Scratch: h.temp}
}

// listing describes everything below a folder: kind, mode, owner and content.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if st.Mode&unix.S_IFMT == unix.S_IFREG && !strings.HasSuffix(path, ".db") {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		name, err := filepath.Rel(dir, path)
		found[name] = text
		return err
	}))
	return found
}

// rows runs a query with one result on a database of a home.
func rows(t testing.TB, dir, service, query string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, stateDir, service, service+".db"))
	must(t, err)
	defer db.Close()
	must(t, db.QueryRow(query).Scan(&n))
	return n
}
