// Package review describes to a person what a decision about a pack would be about: what the pack asks for, what is in it, what
// changed since the last approval, and what deserves a second look.
//
// The attack that it defends against is a file that doesn't look like what it does: invisible or look-alike characters, text
// pushed out of sight, an encoding that makes Python read another program than a person sees. Read review.go first, then
// search.go and identifier.go (the search of contents), diff.go, and warnings.go.
package review

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	api "github.com/rumi-ai/rumi/api/review"
	"github.com/rumi-ai/rumi/libs/tree"
)

type (
	// Review is the API's type of that name.
	Review = api.Review
	// Summary is the API's type of that name.
	Summary = api.Summary
	// File is the API's type of that name.
	File = api.File
	// Listed is the API's type of that name.
	Listed = api.Listed
	// Addition is the API's type of that name.
	Addition = api.Addition
	// Change is the API's type of that name.
	Change = api.Change
	// Rename is the API's type of that name.
	Rename = api.Rename
	// ModeChange is the API's type of that name.
	ModeChange = api.ModeChange
	// Warning is the API's type of that name.
	Warning = api.Warning
	// Field is the API's type of that name.
	Field = api.Field
	// Requests is the API's type of that name.
	Requests = api.Requests
	// Handler is the API's type of that name.
	Handler = api.Handler
	// Content is the API's type of that name.
	Content = api.Content
	// DiffState is the API's type of that name.
	DiffState = api.DiffState
	// Excerpt is the API's type of that name.
	Excerpt = api.Excerpt
)

// The contents of files.
const (
	Text        = api.Text
	Binary      = api.Binary
	Undecodable = api.Undecodable
)

// Open opens the content of a file by its SHA-256.
type Open func(sha256 string) (io.ReadCloser, error)

// Input has the trees that a review compares, and the way to their contents.
type Input struct {
	Now      tree.Manifest
	Approved *tree.Manifest // nil for none
	Lost     string         // the digest of the approved tree, if the store has lost it
	Open     Open           // serves the contents of both trees
	Only     string         // the one kind of warnings that is listed, each by itself; "" for all
}

// Kinds lists the kinds of warnings, the worst first.
func Kinds() []string { return slices.Clone(severity) }

// Of makes a review.
func Of(in Input) (*Review, error) {
	r := &Review{
		Digest: in.Now.Digest(), Notes: []string{},
		Changed: []Change{}, Renamed: []Rename{}, Added: []Addition{}, Removed: []File{}, ModeChanges: []ModeChange{}, Files: []Listed{},
	}
	if in.Approved != nil {
		digest := in.Approved.Digest()
		r.ApprovedDigest = &digest
	} else if in.Lost != "" {
		r.ApprovedDigest, r.ApprovedLost = &in.Lost, true
		r.Notes = append(r.Notes, "What was approved ("+in.Lost+") is not kept any more, so nothing can be compared with it. To approve the pack again mends that.")
	}
	collected := newWarnings(in.Only)
	entrypoint, err := metadata(r, in, collected)
	if err != nil {
		return nil, err
	}
	collected.warnOfNames(in.Now)
	contents, err := searchAll(in, entrypoint, collected)
	if err != nil {
		return nil, err
	}
	d := newDiffer(in.Open)
	if err := compare(r, in, contents, d); err != nil {
		return nil, err
	}
	var more bool
	r.Warnings, more = collected.list()
	r.WarningCounts = collected.counts
	r.Truncated = more || d.cut
	if more && in.Only == "" {
		r.Notes = append(r.Notes, "Not all warnings are listed: ask for those of one kind with ?warnings=KIND.")
	}
	if d.cut {
		r.Notes = append(r.Notes, "Not all diffs are shown: fetch the files whose diff_state is omitted with GET /api/packs/{id}/review/file.")
	}
	return r, nil
}

// metadata compares the descriptor and the requests with the approved ones. It returns the file that the pack runs, "" for
// none.
func metadata(r *Review, in Input, collected *warnings) (entrypoint string, err error) {
	fields, at, err := descriptorFields(in.Now, in.Open)
	if err != nil {
		return "", err
	}
	if err := collected.warnOfDescriptor(in.Now, at, in.Open); err != nil {
		return "", err
	}
	if r.Requests, err = requestsOf(in.Now, in.Open); err != nil {
		return "", err
	}
	if in.Approved == nil {
		r.NewRequests = r.Requests
		r.Descriptor = describeChanges(fields, nil, at, "")
		return stringOf(fields["entrypoint"]), nil
	}
	old, err := requestsOf(*in.Approved, in.Open)
	if err != nil {
		return "", err
	}
	r.NewRequests = newRequests(r.Requests, old)
	before, was, err := descriptorFields(*in.Approved, in.Open)
	if err != nil {
		return "", err
	}
	r.Descriptor = describeChanges(fields, before, at, was)
	for _, f := range r.Descriptor {
		if f.Name == "entrypoint" || f.Name == "pack_identity" {
			collected.add(Warning{Path: cmp.Or(at, was), Kind: f.Name, Detail: fmt.Sprintf("was %s, is %s", clip(string(f.Before)), clip(string(f.After))), Count: 1})
		}
	}
	return stringOf(fields["entrypoint"]), nil
}

// searchAll searches the contents of all files, and returns how each can be read, by path.
func searchAll(in Input, entrypoint string, collected *warnings) (map[string]Content, error) {
	contents := make(map[string]Content, len(in.Now.Entries))
	for _, e := range in.Now.Entries {
		if e.Kind != tree.File {
			continue
		}
		s, source, err := searchFile(e, in.Open, isPython(e.Path) || e.Path == entrypoint)
		if err != nil {
			return nil, fmt.Errorf("review %q: %w", e.Path, err)
		}
		contents[e.Path] = s.content
		collected.warnOfContent(e, s, source)
	}
	return contents, nil
}

// searchFile searches one file. source says that the file is read as text whatever its content is.
func searchFile(e tree.Entry, open Open, python bool) (s *searched, source bool, err error) {
	f, err := open(e.SHA256)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if s, err = searchContent(f, python); err != nil {
		return nil, false, err
	}
	if len(s.suspects.words) > 0 {
		again, err := open(e.SHA256)
		if err != nil {
			return nil, false, err
		}
		defer again.Close()
		if err := s.clear(again, s.python); err != nil {
			return nil, false, err
		}
	}
	return s, s.python || s.script || readAsSource(e), nil
}

// compare lists what differs between the two trees, entry by entry.
func compare(r *Review, in Input, contents map[string]Content, d *differ) error {
	before := map[string]tree.Entry{}
	if in.Approved != nil {
		for _, e := range in.Approved.Entries {
			before[e.Path] = e
		}
	}
	removed := map[string]tree.Entry{}
	maps.Copy(removed, before)
	var added []tree.Entry
	for _, e := range in.Now.Entries {
		delete(removed, e.Path)
		if _, ok := before[e.Path]; !ok {
			added = append(added, e)
		}
	}
	renamed := renames(added, removed)
	r.Summary.Entries, r.Summary.Bytes = len(in.Now.Entries), in.Now.Bytes()
	modes := map[[3]string]int{}
	for _, e := range in.Now.Entries {
		old, ok := before[e.Path]
		line := Listed{File: describe(e), Content: contents[e.Path], Change: "none"}
		switch from, isRename := renamed[e.Path]; {
		case isRename:
			line.Change = "renamed"
			r.Renamed = append(r.Renamed, Rename{From: from.Path, To: e.Path, Before: describe(from), After: describe(e)})
		case !ok:
			line.Change = "added"
		case old == e:
			r.Summary.Unchanged++
		case old.Kind == e.Kind && old.SHA256 == e.SHA256:
			line.Change, line.ModeBefore = "mode", describe(old).Mode
			modeChange(r, modes, describe(old), line.File)
		default:
			line.Change = "changed"
			change := Change{Path: e.Path, Before: describe(old), After: describe(e), Content: contents[e.Path]}
			var err error
			if change.Diff, change.DiffState, err = d.changed(old, e, contents[e.Path]); err != nil {
				return err
			}
			r.Changed = append(r.Changed, change)
		}
		r.Files = append(r.Files, line)
	}
	if err := listAdded(r, added, renamed, contents, d); err != nil {
		return err
	}
	for _, from := range renamed {
		delete(removed, from.Path)
	}
	for _, path := range slices.Sorted(maps.Keys(removed)) {
		r.Removed = append(r.Removed, describe(removed[path]))
	}
	s := &r.Summary
	s.Added, s.Removed, s.Changed, s.Renamed = len(r.Added), len(r.Removed), len(r.Changed), len(r.Renamed)
	return nil
}

// listAdded lists the entries that are new, but for those that were renamed.
func listAdded(r *Review, added []tree.Entry, renamed map[string]tree.Entry, contents map[string]Content, d *differ) error {
	for _, e := range added {
		if _, isRename := renamed[e.Path]; isRename {
			continue
		}
		one := Addition{File: describe(e), Content: contents[e.Path]}
		var err error
		if one.Diff, one.DiffState, err = d.added(e, contents[e.Path]); err != nil {
			return err
		}
		r.Added = append(r.Added, one)
	}
	return nil
}

// modeChange counts an entry of which only the mode changed; at has the indexes of those that are known.
func modeChange(r *Review, at map[[3]string]int, before, after File) {
	r.Summary.ModeOnly++
	key := [3]string{before.Mode, after.Mode, after.Kind}
	i, ok := at[key]
	if !ok {
		i = len(r.ModeChanges)
		at[key] = i
		r.ModeChanges = append(r.ModeChanges, ModeChange{Before: before.Mode, After: after.Mode, Kind: after.Kind, First: after.Path})
	}
	r.ModeChanges[i].Count++
}

// renames finds the files in added that have the content of a removed one, and returns the origin of each by its path. Each
// removed file is the origin of one file at most. An empty file has no origin.
func renames(added []tree.Entry, removed map[string]tree.Entry) map[string]tree.Entry {
	from := map[string][]tree.Entry{}
	for _, path := range slices.Sorted(maps.Keys(removed)) {
		if e := removed[path]; e.Kind == tree.File && e.Size > 0 {
			from[e.SHA256] = append(from[e.SHA256], e)
		}
	}
	renamed := map[string]tree.Entry{}
	for _, e := range added {
		if candidates := from[e.SHA256]; e.Kind == tree.File && len(candidates) > 0 {
			renamed[e.Path] = candidates[0]
			from[e.SHA256] = candidates[1:]
		}
	}
	return renamed
}

func describe(e tree.Entry) File {
	return File{Path: e.Path, Kind: string(e.Kind), Mode: fmt.Sprintf("%04o", e.Mode), Size: e.Size, SHA256: e.SHA256}
}

func read(e tree.Entry, open Open) ([]byte, error) {
	f, err := open(e.SHA256)
	if err != nil {
		return nil, fmt.Errorf("review %q: %w", e.Path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, e.Size))
	if err != nil {
		return nil, fmt.Errorf("review %q: %w", e.Path, err)
	}
	return data, nil
}
