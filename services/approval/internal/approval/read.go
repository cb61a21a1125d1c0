package approval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
	"github.com/rumi-ai/rumi/services/approval/internal/pending"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// List reads the records of all packs, by id.
func (s *Service) List(ctx context.Context) ([]*record.Record, error) { return s.Records.All(ctx) }

// MayRun says whether a pack's gate is open: it is approved, and so is every pack above it.
func (s *Service) MayRun(id pack.ID) bool { return s.gates.state(id).Open }

// EverApproved says whether a pack was approved at any time since it was registered, whatever its status is now. It is false
// for a pack without a record.
func (s *Service) EverApproved(ctx context.Context, id pack.ID) (bool, error) {
	r, err := s.Records.Get(ctx, string(id))
	if fault.Is(err, fault.KindNotFound) {
		return false, nil
	}
	return err == nil && r.Digest != "", err
}

// GateProblem says why a pack's gate is closed though its record lets it run; or that the folder of a pack that may not run
// doesn't exist any more, and what to do then. It is "" if the record itself has the reason. missing says that the folder doesn't exist.
func (s *Service) GateProblem(r *record.Record) (problem string, missing bool) {
	id := pack.ID(r.PackID)
	if r.Status.Executable() {
		if problem = s.gates.heldReason(id); problem != "" {
			return "it is held closed, and that could not be recorded: " + problem, false
		}
		return s.gates.parentProblem(id), false
	}
	if _, err := s.descriptors.Find(s.Ecosystem, id); errors.Is(err, fs.ErrNotExist) && !errors.Is(err, pack.ErrUnreadable) && !r.Retired {
		return fmt.Sprintf("its folder is gone: put it back and scan, or remove the pack with `DELETE /api/packs/%s`", id), true
	}
	return "", false
}

// PackDetails is a pack's record and history.
type PackDetails struct {
	Record  *record.Record
	History []record.Event
}

// Details reads a pack's record and history. An unknown pack is a not-found fault.
func (s *Service) Details(ctx context.Context, id pack.ID) (PackDetails, error) {
	r, err := s.Records.Get(ctx, string(id))
	if err != nil {
		return PackDetails{}, err
	}
	history, err := s.Records.History(ctx, string(id))
	return PackDetails{Record: r, History: history}, err
}

// Manifest reads the manifest of a tree that a record or a history names. If the blob store has lost it, the result is empty
// and the log has a warning: the answer about the pack must not fail because of one old tree.
func (s *Service) Manifest(ctx context.Context, digest string) (tree.Manifest, error) {
	m, err := s.Blobs.Manifest(digest)
	if fault.Is(err, fault.KindNotFound) {
		s.Log.WarnContext(ctx, "the manifest of a tree that was approved once is missing from user_data/approved", "digest", digest)
		return tree.Manifest{}, nil
	}
	return m, err
}

// Review describes what an approval of the pack, as its folder is now, would be about. only is the kind of warnings to list one
// by one, "" for all kinds. An unknown pack is a not-found fault; a folder that can't be a pack's tree is a conflict.
func (s *Service) Review(ctx context.Context, id pack.ID, only string) (*review.Review, error) {
	r, err := s.Records.Get(ctx, string(id))
	if err == nil {
		err = r.RetiredFault("review")
	}
	if err != nil {
		return nil, err
	}
	in, err := s.Blobs.NewIntake()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	root, dir, err := s.openFolder(id)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// The review reads the intake's copy, not the folder: names, sizes, diffs and the digest are then of the same moment, even while
	// somebody writes to the folder.
	now, err := tree.Scan(ctx, root, in)
	if err != nil {
		return nil, s.readFault(id, dir, err)
	}
	input := review.Input{Now: now, Open: in.Open, Only: only}
	if r.Digest != "" {
		approved, err := s.Blobs.Manifest(r.Digest)
		switch {
		case err == nil:
			input.Approved = &approved
		case fault.Is(err, fault.KindNotFound): // without it a person can decide still, and a decision brings it back
			s.Log.WarnContext(ctx, "the approved bytes of a pack are missing from user_data/approved; approve the pack again", "pack_id", string(id), "digest", r.Digest)
			input.Lost = r.Digest
		default:
			return nil, err
		}
	}
	return review.Of(input)
}

// openFolder opens a pack's folder to show what is in it. dir is its path in the ecosystem folder.
func (s *Service) openFolder(id pack.ID) (root *os.Root, dir string, err error) {
	found, err := pack.Find(s.Ecosystem, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fault.Conflict("Cannot review pack '%s': its folder is gone", id).With("pack_folder_gone")
	}
	if err != nil {
		return nil, "", err
	}
	root, err = s.Ecosystem.OpenRoot(found.Dir)
	if err != nil {
		return nil, "", s.readFault(id, found.Dir, err)
	}
	return root, found.Dir, nil
}

// PendingCounts is the packs' section of the pending export.
func (s *Service) PendingCounts(ctx context.Context) (pending.Packs, error) {
	records, err := s.Records.All(ctx)
	if err != nil {
		return pending.Packs{}, err
	}
	var p pending.Packs
	for _, r := range records {
		switch r.Status {
		case pack.StatusPending:
			p.PendingIDs = append(p.PendingIDs, r.PackID)
		case pack.StatusModified:
			p.ModifiedIDs = append(p.ModifiedIDs, r.PackID)
		case pack.StatusBlocked:
			p.BlockedIDs = append(p.BlockedIDs, r.PackID)
		}
	}
	p.PendingCount, p.ModifiedCount, p.BlockedCount = len(p.PendingIDs), len(p.ModifiedIDs), len(p.BlockedIDs)
	return p, nil
}

// SendTree writes an approved tree as a tar stream for a service that runs it. A digest that no approval has is a not-found
// fault.
func (s *Service) SendTree(w io.Writer, digest string) error {
	manifest, err := s.Blobs.Manifest(digest)
	if err != nil {
		return err
	}
	return tree.Send(w, manifest, func(e tree.Entry) (io.ReadCloser, error) { return s.Blobs.Open(e.SHA256) })
}

// Collect removes stored bytes that no record needs any more. Manifests stay as long as a history names them.
func (s *Service) Collect(ctx context.Context) error {
	removed, err := s.Blobs.Collect(func() (historic, complete []string, err error) {
		complete, historic, err = s.Records.Digests(ctx)
		return historic, complete, err
	})
	if removed > 0 {
		s.Log.InfoContext(ctx, "removed approved bytes that no record needs", "files", removed)
	}
	if unread, ok := errors.AsType[*blob.UnreadError](err); ok {
		for _, r := range s.gates.withDigests(unread.Digests) {
			s.Log.ErrorContext(ctx, "the approved manifest of a pack can't be read, so no unneeded bytes are removed; approve the pack again, or remove it",
				"pack_id", r.PackID, "digest", r.Digest)
		}
	}
	return err
}
