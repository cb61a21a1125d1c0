package tree

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A received tree is a folder with these two in it.
const (
	ManifestName = "manifest" // the manifest, as WriteManifest writes it
	TreeName     = "tree"     // the copy
)

// ErrMismatch says that a tree is not the one that a digest names, or a file not the one that its manifest names.
var ErrMismatch = errors.New("tree does not match its digest")

// Send writes a tree for Receive: a tar stream of the manifest and then each file's content in the manifest's order, named by its hash. open
// returns the content of a file; Send closes it. A content that isn't what the manifest says is ErrMismatch, and the stream breaks
// off: the receiver never gets a stream that is whole and wrong.
func Send(w io.Writer, m Manifest, open func(Entry) (io.ReadCloser, error)) error {
	var list bytes.Buffer
	if err := WriteManifest(&list, m); err != nil {
		return fmt.Errorf("send tree: %w", err)
	}
	out := tar.NewWriter(w)
	if err := out.WriteHeader(&tar.Header{Name: ManifestName, Mode: 0o444, Size: int64(list.Len())}); err != nil {
		return fmt.Errorf("send tree: %w", err)
	}
	if _, err := list.WriteTo(out); err != nil {
		return fmt.Errorf("send tree: %w", err)
	}
	for _, e := range m.Entries {
		if e.Kind != File {
			continue
		}
		if err := sendFile(out, e, open); err != nil {
			return fmt.Errorf("send tree: %q: %w", e.Path, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("send tree: %w", err)
	}
	return nil
}

func sendFile(out *tar.Writer, e Entry, open func(Entry) (io.ReadCloser, error)) error {
	content, err := open(e)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := out.WriteHeader(&tar.Header{Name: e.SHA256, Mode: 0o444, Size: e.Size}); err != nil {
		return err
	}
	return copyExactly(out, content, e)
}

// copyExactly copies a file's content, and fails with ErrMismatch unless its size and hash are those of e. It never copies more than
// e.Size bytes.
func copyExactly(to io.Writer, from io.Reader, e Entry) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, h), io.LimitReader(from, e.Size))
	if err != nil {
		return err
	}
	var more [1]byte
	if extra, _ := io.ReadFull(from, more[:]); n != e.Size || extra != 0 || hex.EncodeToString(h.Sum(nil)) != e.SHA256 {
		return ErrMismatch
	}
	return nil
}

// Receive reads what Send wrote and makes dir, which must not exist, with the manifest and a read-only copy of the tree in
// it. Folders have mode 0555, files 0444 or, if any execute bit was set, 0555: set-user-id bits are not copied. The copy is made under a
// temporary name beside dir, hashed as it is written, synced, and renamed: nothing appears at dir unless everything is what digest names, and
// what has appeared survives a power cut. If dir has appeared meanwhile, the error is fs.ErrExist.
//
// The sender is not trusted: file names come from the manifest, whose digest is checked before any file is made, and not from the tar stream.
func Receive(r io.Reader, digest, dir string) error {
	if err := receive(r, digest, dir); err != nil {
		return fmt.Errorf("receive tree %s: %w", digest, err)
	}
	return nil
}

func receive(r io.Reader, digest, dir string) error {
	in := tar.NewReader(r)
	header, err := in.Next()
	if err != nil {
		return unexpected(err)
	}
	if header.Name != ManifestName || header.Size > maxManifest {
		return errors.New("stream does not begin with a manifest")
	}
	m, err := ReadManifest(in)
	if err != nil {
		return err
	}
	if m.Digest() != digest {
		return ErrMismatch
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), tempPrefix)
	if err != nil {
		return err
	}
	defer RemoveAll(temp)
	if err := unpack(in, m, temp); err != nil {
		return err
	}
	if _, err := in.Next(); err != io.EOF {
		return errors.New("stream goes on after the last file")
	}
	if err := os.Chmod(temp, 0o750); err != nil {
		return err
	}
	if err := syncAll(temp, m); err != nil {
		return err
	}
	if err := RenameNew(unix.AT_FDCWD, temp, dir); err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: dir, Err: err}
	}
	return syncPath(filepath.Dir(dir))
}

// unexpected turns io.EOF, which means an end, into the error of an end that comes too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unpack writes the manifest and the files of a stream into temp.
func unpack(in *tar.Reader, m Manifest, temp string) error {
	root, err := os.OpenRoot(temp)
	if err != nil {
		return err
	}
	defer root.Close()
	list, err := root.OpenFile(ManifestName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if err != nil {
		return err
	}
	if err := errors.Join(WriteManifest(list, m), list.Close()); err != nil {
		return err
	}
	for _, e := range m.Entries {
		name := filepath.Join(TreeName, e.Path)
		if e.Kind == Dir {
			if err := root.Mkdir(name, 0o700); err != nil {
				return err
			}
			continue
		}
		header, err := in.Next()
		if err != nil {
			return unexpected(err)
		}
		if header.Name != e.SHA256 || header.Size != e.Size {
			return ErrMismatch
		}
		if err := writeFile(root, name, in, e); err != nil {
			return err
		}
	}
	// Modes of folders come last, those of inner folders first: in a folder of mode 0555 nothing can be made or changed any more.
	for i := len(m.Entries) - 1; i >= 0; i-- {
		if e := m.Entries[i]; e.Kind == Dir {
			if err := root.Chmod(filepath.Join(TreeName, e.Path), fs.FileMode(copyMode(e))); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFile(root *os.Root, name string, content io.Reader, e Entry) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := copyExactly(f, content, e); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(copyMode(e))); err != nil {
		return err
	}
	return f.Close()
}

// copyMode is the mode that an entry has in a copy.
func copyMode(e Entry) uint32 {
	if e.Kind == Dir || e.Mode&0o111 != 0 {
		return 0o555
	}
	return 0o444
}

// syncAll makes a copy durable. All files are written by now, so the first sync does most of the work.
func syncAll(temp string, m Manifest) error {
	if err := syncPath(filepath.Join(temp, ManifestName)); err != nil {
		return err
	}
	for _, e := range m.Entries {
		if err := syncPath(filepath.Join(temp, TreeName, e.Path)); err != nil {
			return err
		}
	}
	return syncPath(temp)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// RemoveAll removes a read-only copy: its folders are made writable first, or nothing in them could be removed. One that isn't there is no
// error.
func RemoveAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}
