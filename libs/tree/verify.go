package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// damaged turns an error that was found in a copy into ErrMismatch. If ctx has ended, the error says nothing of the copy and stays.
func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrMismatch) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrMismatch, withoutNotExist{err})
}

// withoutNotExist keeps the text of an error and hides what it wraps: a file that is missing in a copy must not be taken for a missing copy,
// which would be fetched without removing this one.
type withoutNotExist struct{ err error }

func (e withoutNotExist) Error() string { return e.err.Error() }

// Verify checks that dir, made by Receive, still holds the tree that digest names. Otherwise the error is ErrMismatch.
func Verify(ctx context.Context, dir, digest string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("verify tree: %w", err)
	}
	defer root.Close()
	if err := verifyCopy(ctx, root, digest); err != nil {
		return fmt.Errorf("verify tree: %w", damaged(ctx, err))
	}
	return nil
}

// verifyCopy compares a copy with its manifest, and the manifest with the digest.
func verifyCopy(ctx context.Context, root *os.Root, digest string) error {
	m, err := manifestOf(root)
	if err != nil {
		return err
	}
	if m.Digest() != digest {
		return ErrMismatch
	}
	copied, err := root.OpenRoot(TreeName)
	if err != nil {
		return err
	}
	defer copied.Close()
	found, err := Scan(ctx, copied, nil)
	if err != nil {
		return err
	}
	if len(found.Entries) != len(m.Entries) {
		return ErrMismatch
	}
	for i, want := range m.Entries {
		want.Mode = copyMode(want)
		if found.Entries[i] != want {
			return fmt.Errorf("%w: %q", ErrMismatch, want.Path)
		}
	}
	return nil
}

// manifestOf reads the manifest of a copy.
func manifestOf(root *os.Root) (Manifest, error) {
	f, err := root.Open(ManifestName)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	return ReadManifest(f)
}
