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

// List are all packs by id.
func (s *Service) List(ctx context.Context) ([]*record.Record, error) { return s.Records.All(ctx) }

// MayRun says whether a pack's gate is open: it is approved, and so is every pack above it.
func (s *Service) MayRun(id pack.ID) bool { return s.gates.state(id).Open }

// EverApproved says whether a pack was approved since it became known, whatever it is now. One that isn't known was not.
func (s *Service) EverApproved(ctx context.Context, id pack.ID) (bool, error) {
	r, err := s.Records.Get(ctx, string(id))
	if fault.Is(err, fault.KindNotFound) {
		return false, nil
	}
	return err == nil && r.Digest != "", err
}

// Trouble says why a pack's gate is closed though its record lets it run, or that the folder of one that may not run is gone and what
// can be done then; "" where its record says all. missing says that the folder isn't there.
func (s *Service) GateProblem(r *record.Record) (problem string, missing bool) {
	id := pack.ID(r.PackID)
	if r.Status.Executable() {
		if problem = s.gates.heldReason(id); problem != "" {
			return "it is held closed, and that could not be recorded: " + problem, false
		}
		return s.gates.parentProblem(id), false
	}
	if _, err := s.descriptors.Find(s.Ecosystem, id); errors.Is(err, fs.ErrNotExist) && !errors.Is(err, pack.ErrUnread) && !r.Retired {
		return fmt.Sprintf("its folder is gone: put it back and scan, or remove the pack with `DELETE /api/packs/%s`", id), true
	}
	return "", false
}

// PackDetails is all that is known of a pack.
type PackDetails struct {
	Record  *record.Record
	History []record.Event
}

// Details collects it; an unknown pack is a not-found fault.
func (s *Service) Details(ctx context.Context, id pack.ID) (PackDetails, error) {
	r, err := s.Records.Get(ctx, string(id))
	if err != nil {
		return PackDetails{}, err
	}
	history, err := s.Records.History(ctx, string(id))
	return PackDetails{Record: r, History: history}, err
}

// Manifest is that of a tree that a record or its history names by digest. One that the store has lost is empty: what else is
// known of the pack must still be told.
func (s *Service) Manifest(ctx context.Context, digest string) (tree.Manifest, error) {
	m, err := s.Blobs.Manifest(digest)
	if fault.Is(err, fault.KindNotFound) {
		s.Log.WarnContext(ctx, "a tree that was approved is not kept", "digest", digest)
		return tree.Manifest{}, nil
	}
	return m, err
}

// Review shows what an approval of the pack as it lies there now would be about; only is the one kind of warnings that is listed, ""
// for all. An unknown pack is a not-found fault, a folder that can't be a pack's tree a conflict.
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
	// What is shown is what is kept, so that names, sizes and differences are of one moment.
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
			s.Log.WarnContext(ctx, "a tree that was approved is not kept", "pack_id", string(id), "digest", r.Digest)
			input.Lost = r.Digest
		default:
			return nil, err
		}
	}
	return review.Of(input)
}

// folder opens a pack's folder, which is dir in the ecosystem folder, to show it.
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

// Waiting is the packs' section of the pending export.
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

// SendTree writes an approved tree for whoever runs it; a digest that nothing approved has is a not-found fault.
func (s *Service) SendTree(w io.Writer, digest string) error {
	manifest, err := s.Blobs.Manifest(digest)
	if err != nil {
		return err
	}
	return tree.Send(w, manifest, func(e tree.Entry) (io.ReadCloser, error) { return s.Blobs.Open(e.SHA256) })
}

// Collect removes kept bytes that no record needs any more. Manifests stay as long as a history names them.
func (s *Service) Collect(ctx context.Context) error {
	removed, err := s.Blobs.Collect(func() (historic, complete []string, err error) {
		complete, historic, err = s.Records.Digests(ctx)
		return historic, complete, err
	})
	if removed > 0 {
		s.Log.InfoContext(ctx, "collected what nothing needs", "files", removed)
	}
	if unread, ok := errors.AsType[*blob.UnreadError](err); ok {
		for _, r := range s.gates.withDigests(unread.Digests) {
			s.Log.ErrorContext(ctx, "what was approved of a pack can't be read, so nothing is removed of what nobody needs; approve the pack again, or remove it",
				"pack_id", r.PackID, "digest", r.Digest)
		}
	}
	return err
}
