package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/bundle"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
)

// Problem is something that doesn't fit.
type Problem struct {
	Check   string `json:"check"` // one of the names below
	Path    string `json:"path"`  // the file, folder or pack that it is about
	What    string `json:"what"`
	Warning bool   `json:"warning,omitzero"` // the suite allows it: the backup is as good as the home was
}

func (p Problem) String() string { return p.Path + ": " + p.What }

// The names of checks.
const (
	checkArchive     = "archive"      // the file can be decrypted and read, and everything in it is what the manifest says
	checkDatabase    = "database"     // a database is whole, and has the tables and rows that the manifest says
	checkApproved    = "approved"     // the bytes of each approved pack are there
	checkPack        = "pack"         // the folder of each approved pack is the approved one
	checkHandler     = "handler"      // the files of each trusted handler are those that were trusted
	checkEnvironment = "environment"  // each installed environment is there and is what its digest names
	checkGrant       = "grant"        // the pack of each grant is known
	checkStaging     = "staging"      // each import that waits has its files
	checkSecret      = "secret"       // each secret can be decrypted
	checkInstall     = "installation" // no installation of a pack was under way
)

// references compares what the databases name with what the files are.
type references struct {
	ctx      context.Context
	m        *manifest
	content  *content
	files    map[string]string // path of a database in the home → path of a copy of it
	paths    []string          // of m, sorted
	problems []Problem
}

// checkReferences returns what doesn't fit. An error says that it could not be found out.
func checkReferences(ctx context.Context, m *manifest, c *content, files map[string]string) ([]Problem, error) {
	r := &references{ctx: ctx, m: m, content: c, files: files, paths: m.sorted(), problems: []Problem{}}
	for _, step := range []func() error{r.packs, r.handlers, r.environments, r.grants, r.stagings, r.secrets} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(r.problems, func(a, b Problem) int { return strings.Compare(a.Check+a.Path+a.What, b.Check+b.Path+b.What) })
	return r.problems, nil
}

func (r *references) report(check, name, format string, args ...any) {
	r.problems = append(r.problems, Problem{Check: check, Path: name, What: fmt.Sprintf(format, args...)})
}

// each calls row for each row of a query on a service's database. A home without this database, or with one from before the table
// was there, has no rows.
func (r *references) each(service, query string, row func(scan func(...any) error) error) error {
	file, ok := r.files[path.Join(stateDir, service, service+".db")]
	if !ok {
		return nil
	}
	db, err := open(file)
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(r.ctx, query)
	if err != nil && strings.Contains(err.Error(), "no such") {
		return nil
	} else if err != nil {
		return fmt.Errorf("read the database of %s: %w", service, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return fmt.Errorf("read the database of %s: %w", service, err)
		}
	}
	return rows.Err()
}

// packs checks the bytes of approved packs, and that their folders in ecosystem/ are what was approved: otherwise they would be modified after
// a restore, though nobody has changed them.
func (r *references) packs() error {
	blobs := r.blobs()
	return r.each("approval", `SELECT pack_id, status, digest FROM records WHERE digest <> ''`, func(scan func(...any) error) error {
		var id, status, digest string
		if err := scan(&id, &status, &digest); err != nil {
			return err
		}
		r.approved(id, digest, blobs)
		if !pack.Status(status).Executable() {
			return nil
		}
		if found := r.folderOf(id); found == "" {
			r.report(checkPack, id, "it is approved, and has no folder in ecosystem/")
		} else if got := r.digestOf(found); got != digest {
			r.report(checkPack, id, "it is approved as %s, and %s is %s", short(digest), found, short(got))
		}
		return nil
	})
}

// folderOf is the folder of a pack in ecosystem/, "" for none. A folder has its pack's id, except in a few where the descriptor has it.
func (r *references) folderOf(id string) string {
	for _, name := range []string{path.Join("ecosystem", id), path.Join("ecosystem", pack.LegacyDir, id)} {
		if e, ok := r.m.entries[name]; ok && e.Kind == folderKind {
			return name
		}
	}
	return ""
}

func (r *references) approved(id, digest string, blobs map[bundle.Sum]bool) {
	t, ok := r.content.trees[digest]
	if _, there := r.m.entries[path.Join(manifestsDir, strings.TrimPrefix(digest, "sha256:")+".json")]; !ok || !there {
		r.report(checkApproved, id, "the list of its approved files, %s, is missing", short(digest))
		return
	}
	if t.err != nil {
		r.report(checkApproved, id, "the list of its approved files, %s: %v", short(digest), t.err)
		return
	}
	missing := 0
	for _, sum := range t.blobs {
		if !blobs[sum] {
			missing++
		}
	}
	if missing > 0 {
		r.report(checkApproved, id, "%d of its %d approved files are missing", missing, len(t.blobs))
	}
}

// blobs are all blobs of approved files that the backup has whole.
func (r *references) blobs() map[bundle.Sum]bool {
	all := map[bundle.Sum]bool{}
	for name, sums := range r.content.bundles {
		if _, ok := r.m.entries[name]; ok {
			for _, sum := range sums {
				all[sum] = true
			}
		}
	}
	for name, e := range r.m.entries {
		if strings.HasPrefix(name, blobsDir+"/") && e.Kind == fileKind && e.SHA256 == path.Base(name) {
			if sum, err := hex.DecodeString(e.SHA256); err == nil {
				all[bundle.Sum(sum)] = true
			}
		}
	}
	return all
}

// digestOf is the digest of a folder of the backup as libs/tree has it, "" for one that no tree can be.
func (r *references) digestOf(folder string) string {
	t, err := r.treeOf(folder)
	if err != nil {
		return ""
	}
	return t.Digest()
}

func (r *references) treeOf(folder string) (t tree.Manifest, err error) {
	for _, name := range below(r.paths, folder) {
		e := r.m.entries[name]
		entry := tree.Entry{Path: ".", Kind: tree.Dir, Mode: e.Mode, Size: e.Size, SHA256: e.SHA256}
		if name != folder {
			entry.Path = name[len(folder)+1:]
		}
		switch e.Kind {
		case fileKind:
			entry.Kind = tree.File
		case linkKind:
			return t, errors.New("a link")
		}
		t.Entries = append(t.Entries, entry)
	}
	slices.SortFunc(t.Entries, func(a, b tree.Entry) int { return strings.Compare(a.Path, b.Path) })
	return t, nil
}

// below are the paths of a folder and of everything in it, of sorted paths.
func below(sorted []string, folder string) []string {
	from, _ := slices.BinarySearch(sorted, folder+"/")
	to, _ := slices.BinarySearch(sorted, folder+"0") // "0" comes after "/"
	inside := sorted[from:to]
	if _, ok := slices.BinarySearch(sorted, folder); ok {
		return append([]string{folder}, inside...)
	}
	return inside
}

func (r *references) handlers() error {
	return r.each("capability-broker", `SELECT pack_id, slug, folder_digest FROM capability_trust`, func(scan func(...any) error) error {
		var id, slug, digest string
		if err := scan(&id, &slug, &digest); err != nil {
			return err
		}
		folder := path.Join(handlersDir, id, slug)
		if _, ok := r.m.entries[folder]; !ok {
			r.report(checkHandler, id+"/"+slug, "it is trusted, and its files are missing")
		} else if got := r.digestOf(folder); got != digest {
			r.report(checkHandler, id+"/"+slug, "it is trusted as %s, and its files are %s", short(digest), short(got))
		}
		return nil
	})
}

func (r *references) environments() error {
	return r.each("pip-installer", `SELECT candidate_key, payload FROM candidates WHERE state = 'installed'`, func(scan func(...any) error) error {
		var key, payload string
		if err := scan(&key, &payload); err != nil {
			return err
		}
		var lock struct {
			SHA256      string `json:"sha256"`
			Environment struct {
				Digest string `json:"digest"`
			} `json:"environment"`
		}
		if err := json.Unmarshal([]byte(payload), &lock); err != nil {
			r.report(checkEnvironment, key, "its record can't be read")
			return nil
		}
		digest := lock.Environment.Digest
		folder := path.Join(environmentsDir, strings.TrimPrefix(digest, "sha256:"), tree.TreeName)
		switch _, ok := r.m.entries[folder]; {
		case !strings.HasSuffix(key, ":"+lock.SHA256):
			r.report(checkEnvironment, key, "its record is that of another lock, %s", short(lock.SHA256))
		case !ok:
			r.report(checkEnvironment, key, "its environment %s is missing", short(digest))
		case r.digestOf(folder) != digest:
			r.report(checkEnvironment, key, "its environment is %s, and should be %s", short(r.digestOf(folder)), short(digest))
		}
		return nil
	})
}

// grants checks that the pack of each grant is known: one with a record, or with a folder that no scan has seen yet.
func (r *references) grants() error {
	known := map[string]bool{}
	if err := r.each("approval", `SELECT pack_id FROM records`, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		known[id] = true
		return err
	}); err != nil {
		return err
	}
	for service, query := range map[string]string{
		"egress-proxy":      `SELECT pack_id FROM network_grants`,
		"capability-broker": `SELECT DISTINCT principal_id FROM capability_grants`,
	} {
		err := r.each(service, query, func(scan func(...any) error) error {
			var id string
			if err := scan(&id); err != nil {
				return err
			}
			if !known[id] && r.folderOf(id) == "" {
				r.problems = append(r.problems, Problem{Check: checkGrant, Path: id, What: service + " has a grant for it, and there is no such pack", Warning: true})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *references) stagings() error {
	if err := r.each("pack-registry", `SELECT staging_id FROM staging`, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		if _, ok := r.m.entries[path.Join(stagingDir, id)]; !ok {
			r.report(checkStaging, id, "its files are missing; import it again")
		}
		return nil
	}); err != nil {
		return err
	}
	return r.each("pack-registry", `SELECT operation_id FROM apply_operation`, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		r.report(checkInstall, id, "an installation was interrupted and not ended; pack-registry ends it when it starts")
		return nil
	})
}

func (r *references) secrets() error {
	for name := range r.m.entries {
		dir, base := path.Split(name)
		if dir != secretsPath+"/" || !strings.HasSuffix(base, ".json") {
			continue
		}
		s, ok := r.content.secrets[name]
		key := strings.TrimSuffix(base, ".json")
		switch {
		case !ok:
			r.report(checkSecret, key, "it could not be read")
		case s.err != nil:
			r.report(checkSecret, key, "%v", s.err)
		case s.keySum != r.content.keySum:
			r.report(checkSecret, key, "the key of the secrets was replaced meanwhile")
		}
	}
	return nil
}

// short is a digest as a message shows it.
func short(digest string) string {
	if digest == "" {
		return "nothing that can be approved"
	}
	digits := strings.TrimPrefix(digest, "sha256:")
	return digits[:min(12, len(digits))]
}
