package auditfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// A plain and a compressed file of one category and day can be there together, for two reasons.
//
// The compression was killed before it had removed the plain file: both have the same lines, and the plain one counts.
//
// Or a process wrote a line of a day that was long over, after that day was compressed: it was stopped for days (docker pause, a suspended machine)
// between a decision and its entry. It finds no file under the name, and begins one. Then the plain one has the lines that come after the
// compressed ones, and offsets go on where those of the compressed file end.

// after finds the compressed file that f, a plain one, has the late lines of, if there is one.
func (d *Dir) after(f *File) (*File, error) {
	packed, err := d.openRegular(f.CompressedName())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		f.earlier, err = openCompressed(f.ID, packed)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	same, err := sameBegin(f.file, f.earlier)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if same {
		_ = f.earlier.Close()
		f.earlier = nil
	}
	return f, nil
}

// sameBegin says whether two files have the same first line, with a time in microseconds in it. Of two files with different lines, none has.
func sameBegin(a, b io.ReaderAt) (bool, error) {
	first, err := NewLines(a, 0).Next()
	if errors.Is(err, io.EOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	begin := make([]byte, first.End)
	if first.Text == nil { // foreign, and of any length
		begin = begin[:MaxLine]
	}
	other := make([]byte, len(begin))
	n, _ := a.ReadAt(begin, 0)
	m, _ := b.ReadAt(other, 0)
	return n == m && bytes.Equal(begin, other), nil
}

// before is the size of the lines that the file's own ones come after.
func (f *File) before() int64 {
	if f.earlier == nil {
		return 0
	}
	return f.earlier.size
}

// readAcross reads from an offset in the compressed lines on, into the plain ones.
func (f *File) readAcross(p []byte, offset int64) (int, error) {
	n := int(min(int64(len(p)), f.before()-offset))
	read, err := f.earlier.ReadAt(p[:n], offset)
	if read < n || read == len(p) {
		if read == len(p) {
			err = nil
		}
		return read, err
	}
	more, err := f.file.ReadAt(p[n:], 0)
	return n + more, err
}

// Identity tells files apart, whatever their names are. Two files with the lines of one category and day, one after the other, have different ones.
type Identity struct {
	Device, Inode uint64
	Earlier       uint64 // the inode of the compressed file before it, 0 for none
}

// Identity is that of the open file.
func (f *File) Identity() (Identity, error) {
	st, err := f.file.Stat()
	if err != nil {
		return Identity{}, fmt.Errorf("inspect audit log: %w", err)
	}
	identity := identityOf(st)
	if f.earlier != nil {
		earlier, err := f.earlier.Identity()
		if err != nil {
			return Identity{}, err
		}
		identity.Earlier = earlier.Inode
	}
	return identity, nil
}

func identityOf(info os.FileInfo) Identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Identity{}
	}
	return Identity{Device: st.Dev, Inode: st.Ino}
}

// Fingerprint is what the folder tells of a file without opening it. As long as it stays the same, so does the file.
type Fingerprint struct {
	Plain, Packed           Identity // of each of both files; the zero value for one that isn't there
	PlainSize, PackedSize   int64    // as they are stored
	PlainMTime, PackedMTime int64    // nanoseconds
}

// Fingerprint is that of the files of a category and day; the zero value where there is none.
func (d *Dir) Fingerprint(id ID) (print Fingerprint, err error) {
	if print.Plain, print.PlainSize, print.PlainMTime, err = d.inspect(id.Name()); err != nil {
		return print, err
	}
	print.Packed, print.PackedSize, print.PackedMTime, err = d.inspect(id.CompressedName())
	return print, err
}

func (d *Dir) inspect(name string) (identity Identity, size, mtime int64, err error) {
	info, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return identity, 0, 0, nil
	} else if err != nil {
		return identity, 0, 0, fmt.Errorf("inspect audit log: %w", err)
	}
	return identityOf(info), info.Size(), info.ModTime().UnixNano(), nil
}

// Unpack reads a compressed file that is open, whatever its name is. It belongs to the result, which has no category or day, or is closed.
func Unpack(packed *os.File) (*File, error) { return openCompressed(ID{}, packed) }
