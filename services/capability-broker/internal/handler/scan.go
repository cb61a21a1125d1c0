package handler

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/candidate"
)

// Sources reads packs' files in ecosystem/. pack-registry owns that folder; peers.Sources asks it.
type Sources interface {
	// Select returns every installed pack with those of its files whose path in the pack matches one of the patterns (path.Match).
	Select(ctx context.Context, patterns ...string) ([]Source, error)
}

// Source is an installed pack, with the files that were asked for.
type Source struct {
	PackID string
	Base   string // folder of its ecosystem.json, "" or "backend"
	Files  []File
	Error  string // why the pack can't be read
}

// File is one file of a pack.
type File struct {
	Path    string
	SHA256  string // hex
	Content []byte
	Error   string // why it can't be read: too large, a link, …
}

var errNoFile = errors.New("the file is not there")

func (s Source) file(name string) (File, error) {
	i := slices.IndexFunc(s.Files, func(f File) bool { return f.Path == name })
	switch {
	case i < 0:
		return File{}, fmt.Errorf("read %s: %w", path.Base(name), errNoFile)
	case s.Files[i].Error != "":
		return File{}, fmt.Errorf("read %s: %s", path.Base(name), s.Files[i].Error)
	}
	return s.Files[i], nil
}

// slugs lists the names of the folders in the pack's folder of handlers, sorted.
func (s Source) slugs() []string {
	var found []string
	prefix := path.Join(s.Base, foldersDir) + "/"
	for _, f := range s.Files {
		if rest, ok := strings.CutPrefix(f.Path, prefix); ok {
			if slug, _, ok := strings.Cut(rest, "/"); ok {
				found = append(found, slug)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// candidate makes a candidate of one handler's folder. An error says what is wrong with the folder.
func (s Source) candidate(slug string) (Candidate, error) {
	dir := sourceDir(s.Base, slug)
	if !slugPattern.MatchString(slug) {
		return Candidate{}, errors.New("read handler: its folder's name must match ^[a-zA-Z0-9_-]{1,64}$")
	}
	raw, err := s.file(path.Join(dir, descriptorFile))
	if err != nil {
		return Candidate{}, err
	}
	d, err := parseDescriptor(raw.Content)
	if err != nil {
		return Candidate{}, err
	}
	script, err := s.file(path.Join(dir, scriptFile))
	if err != nil {
		return Candidate{}, err
	}
	return Candidate{
		PackID: s.PackID, Slug: slug, HandlerID: d.HandlerID, PermissionID: d.PermissionID, Entrypoint: d.Entrypoint,
		SourceDir: dir, ScriptSHA256: script.SHA256, Description: d.Description, Risk: d.Risk,
		ConfigSchema: d.ConfigSchema, warnings: d.warnings(),
	}, nil
}

// patterns select the two files of handlers with a slug, or of all with "*".
func patterns(slug string) (list []string) {
	for _, base := range []string{"", "backend"} {
		for _, name := range []string{descriptorFile, scriptFile} {
			list = append(list, path.Join(base, foldersDir, slug, name))
		}
	}
	return list
}

// Scan finds the handlers of every installed pack, whatever the pack's status, and records them as candidates. A handler that is trusted
// becomes pending again when its pack was approved with another folder of it since, even if handler.py is the same.
func (s *Service) Scan(ctx context.Context) (candidate.ScanResult, error) {
	found, problems, err := s.find(ctx)
	if err != nil {
		return candidate.ScanResult{}, err
	}
	result, err := s.candidates.Scan(ctx, found, problems)
	for _, f := range found {
		for _, warning := range f.Payload.warnings {
			result.Warnings = append(result.Warnings, candidate.ScanError{PackID: f.PackID, Path: f.Payload.SourceDir, Error: warning})
		}
	}
	return result, err
}

// BackgroundScan is Scan after a change of a pack, without a request of an operator: see candidate.Candidates.BackgroundScan.
func (s *Service) BackgroundScan(ctx context.Context) error {
	found, problems, err := s.find(ctx)
	if err != nil {
		return err
	}
	return s.candidates.BackgroundScan(ctx, found, problems)
}

func (s *Service) find(ctx context.Context) (found []candidate.Found[Candidate], problems []candidate.ScanError, err error) {
	packs, err := s.Sources.Select(ctx, patterns("*")...)
	if err != nil {
		return nil, nil, fmt.Errorf("scan handlers: %w", err)
	}
	for _, p := range packs {
		if p.Error != "" {
			problems = append(problems, candidate.ScanError{PackID: p.PackID, Error: p.Error})
			continue
		}
		for _, slug := range p.slugs() {
			c, err := p.candidate(slug)
			if err != nil {
				problems = append(problems, candidate.ScanError{PackID: p.PackID, Path: sourceDir(p.Base, slug), Error: err.Error()})
				continue
			}
			if t := s.Registry.Of(c.PackID, c.Slug); t != nil && t.CandidateKey == c.Key() {
				c.outdated = s.outdated(ctx, *t, c)
			}
			found = append(found, candidate.Found[Candidate]{Key: c.Key(), PackID: c.PackID, Payload: c})
		}
	}
	return found, problems, nil
}
