package approval

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// The two trees of a pack whose files can be read.
const (
	TreeCurrent  = "current"  // its folder as it is now
	TreeApproved = "approved" // the copy that was approved last
)

// ExcerptRequest names a part of a file.
type ExcerptRequest struct {
	Tree          string // TreeCurrent or TreeApproved
	Path          string // relative to the pack
	Digest        string // the digest that the tree must have; "" for any
	Offset, Limit int64  // bytes
}

// Excerpt reads a part of a file of a pack. If the tree has another digest than the request's, the error is a conflict
// "digest_mismatch" that carries the tree's digest. An unknown pack and a missing file are not-found faults.
func (s *Service) Excerpt(ctx context.Context, id pack.ID, req ExcerptRequest) (*review.Excerpt, error) {
	r, err := s.Records.Get(ctx, string(id))
	if err == nil {
		err = r.RetiredFault("review")
	}
	if err != nil {
		return nil, err
	}
	var found *review.Excerpt
	if req.Tree == TreeApproved {
		found, err = s.approvedExcerpt(r, req)
	} else {
		found, err = s.currentExcerpt(ctx, id, req)
	}
	if err != nil {
		return nil, err
	}
	found.PackID, found.Tree = string(id), req.Tree
	return found, nil
}

// approvedExcerpt reads from the copy that was approved last.
func (s *Service) approvedExcerpt(r *record.Record, req ExcerptRequest) (*review.Excerpt, error) {
	if r.Digest == "" {
		return nil, fault.NotFound("Pack '%s' was never approved", r.PackID).With("never_approved")
	}
	manifest, err := s.Blobs.Manifest(r.Digest)
	if err != nil {
		return nil, err
	}
	return excerpt(r.PackID, manifest, r.Digest, req, func(e tree.Entry) (io.ReadCloser, error) { return s.Blobs.Open(e.SHA256) })
}

// currentExcerpt reads from the pack's folder. What it reads is compared with the manifest: a file that changed meanwhile is a
// conflict, never a mixture of two versions.
func (s *Service) currentExcerpt(ctx context.Context, id pack.ID, req ExcerptRequest) (*review.Excerpt, error) {
	root, dir, err := s.openFolder(id)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	manifest, digest, err := s.recentManifests.manifest(ctx, id, root)
	if err != nil {
		return nil, s.readFault(id, dir, err)
	}
	found, err := excerpt(string(id), manifest, digest, req, func(e tree.Entry) (io.ReadCloser, error) {
		return root.OpenFile(e.Path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	})
	if err != nil && !fault.Is(err, fault.KindConflict) && !fault.Is(err, fault.KindNotFound) && !fault.Is(err, fault.KindInvalid) {
		s.recentManifests.forget(id)
		if errors.Is(err, review.ErrChanged) {
			return nil, fault.Conflict("Cannot read pack '%s': it changed while it was read; try again", id).With("pack_changing").Because(err)
		}
		return nil, s.readFault(id, dir, err)
	}
	return found, err
}

// excerpt reads a part of a file of the tree that a manifest describes.
func excerpt(packID string, m tree.Manifest, digest string, req ExcerptRequest, open func(tree.Entry) (io.ReadCloser, error)) (*review.Excerpt, error) {
	if req.Digest != "" && req.Digest != digest {
		return nil, fault.Conflict("Pack '%s' changed since it was reviewed", packID).With("digest_mismatch").Carrying(map[string]string{"digest": digest})
	}
	i, ok := slices.BinarySearchFunc(m.Entries, req.Path, func(e tree.Entry, path string) int { return strings.Compare(e.Path, path) })
	if !ok {
		return nil, fault.NotFound("No such file in the %s tree of pack '%s': %q", req.Tree, packID, req.Path).With("file_not_found")
	}
	e := m.Entries[i]
	if e.Kind != tree.File {
		return nil, fault.Invalid("Invalid path: %q is a folder", req.Path).With("not_a_file")
	}
	if req.Offset > e.Size {
		return nil, fault.Invalid("Invalid value for field 'offset': the file has %d bytes", e.Size).With("invalid_field")
	}
	f, err := open(e)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := review.ExcerptOf(e, f, req.Offset, req.Limit)
	if err != nil {
		return nil, err
	}
	found.Digest = digest
	return found, nil
}

// recentManifests remembers the manifests of the packs whose files were read last, so that a client that pages through a file
// doesn't have the whole pack read for each part. The file that is read is compared with its entry all the same. Its zero value
// is ready for use.
type recentManifests struct {
	mu   sync.Mutex
	last []recentManifest // the newest first, at most maxRecent
}

type recentManifest struct {
	id          pack.ID
	fingerprint tree.Fingerprint
	manifest    tree.Manifest
	digest      string
}

// Bounds of recentManifests.
const (
	maxRecent        = 4     // packs
	maxRecentEntries = 10000 // of one pack; the manifest of a larger one isn't remembered
)

func (s *recentManifests) manifest(ctx context.Context, id pack.ID, root *os.Root) (tree.Manifest, string, error) {
	began := time.Now()
	changed := &latestChange{}
	fingerprint, err := tree.FingerprintWith(ctx, root, changed)
	if err != nil {
		return tree.Manifest{}, "", err
	}
	s.mu.Lock()
	i := slices.IndexFunc(s.last, func(d recentManifest) bool { return d.id == id && d.fingerprint == fingerprint })
	if i >= 0 {
		defer s.mu.Unlock()
		return s.last[i].manifest, s.last[i].digest, nil
	}
	s.mu.Unlock()
	manifest, err := tree.Scan(ctx, root, nil)
	if err != nil {
		return tree.Manifest{}, "", err
	}
	digest := manifest.Digest()
	s.forget(id)
	// A manifest is remembered only if nothing changed while it was read, and the last change before is older than mtimeGranularity:
	// otherwise the next change might leave the fingerprint as it is.
	after, err := tree.FingerprintOf(ctx, root)
	if err == nil && after == fingerprint && changed.at.Before(began.Add(-mtimeGranularity)) && len(manifest.Entries) <= maxRecentEntries {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = slices.Insert(s.last, 0, recentManifest{id, fingerprint, manifest, digest})
		s.last = s.last[:min(len(s.last), maxRecent)]
	}
	return manifest, digest, nil
}

func (s *recentManifests) forget(id pack.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = slices.DeleteFunc(s.last, func(d recentManifest) bool { return d.id == id })
}
