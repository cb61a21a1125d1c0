package archive

import (
	"bufio"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// Modes that files and folders are made with; the umask, or the default access control list of where they are made, takes
// from them. Nothing else of an archive's modes is kept than whether a file may be executed.
const (
	FolderMode     = fs.FileMode(0o775)
	FileMode       = fs.FileMode(0o664)
	ExecutableMode = fs.FileMode(0o775)
)

// Extract writes the content of the top folder into root, which must be empty. Each file must have the size and checksum that
// the archive promised. Otherwise, and if a name exists already, the error is a fault as of Open, and root holds a part.
func (a *Archive) Extract(ctx context.Context, root *os.Root) error {
	return a.extract(ctx, root, byPosition(a.entries), func(int) error { return nil })
}

// Consume is Extract of an archive that isn't needed afterwards, whatever the result. It unpacks from the end, and cuts off
// what is unpacked; truncate shortens the archive, one call at a time.
//
// The reason is memory. An archive that was just uploaded lies in the page cache. If its pages are given back at once, the next
// files take them; otherwise archive and files need twice as much. Memory that was not in use lately is expensive, where it
// first has to be reclaimed, or to be had from a hypervisor.
func (a *Archive) Consume(ctx context.Context, root *os.Root, truncate func(size int64) error) error {
	entries := byPosition(a.entries)
	slices.Reverse(entries)
	c := truncator{entries: entries, done: make([]bool, len(entries)), truncate: truncate}
	return a.extract(ctx, root, entries, c.unpacked)
}

// extract writes entries in the given order, and calls done with the index of each that is written.
func (a *Archive) extract(ctx context.Context, root *os.Root, entries []*entry, done func(int) error) error {
	made := map[string]bool{".": true}
	for _, e := range entries {
		if e.leftOut {
			continue
		}
		within := e.path()
		if !e.folder {
			within = path.Dir(within)
		}
		if err := mkdirs(root, within, made); err != nil {
			return fmt.Errorf("unpack archive: %w", err)
		}
	}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(unpackConcurrency, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			unpacker := newUnpacker(a.r)
			for i := int(next.Add(1)) - 1; i < len(entries); i = int(next.Add(1)) - 1 {
				if err := unpacker.entry(ctx, root, entries[i]); err != nil {
					return err
				}
				if err := done(i); err != nil {
					return fmt.Errorf("cut off what is unpacked: %w", err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// cutBytes is how many bytes are cut off at a time: few enough to be in a processor's cache, enough for few calls.
const cutBytes = 4 << 20

// truncator cuts off the end of an archive while it is unpacked. Several goroutines unpack, so that an entry may still be
// needed while later ones are done.
type truncator struct {
	truncate func(int64) error

	mu      sync.Mutex
	entries []*entry // the last of the archive first
	done    []bool
	first   int   // of those that are not done
	cutAt   int64 // where the archive ends now; 0 as long as nothing was cut off
}

// unpacked notes that an entry is unpacked, and cuts off what is not needed any more.
func (c *truncator) unpacked(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[i] = true
	for c.first < len(c.entries) && c.done[c.first] {
		c.first++
	}
	if c.first == 0 {
		return nil
	}
	end := c.entries[c.first-1].header
	if c.cutAt == 0 {
		c.cutAt = c.entries[0].data + c.entries[0].packed
	}
	if c.cutAt-end < cutBytes {
		return nil
	}
	c.cutAt = end
	return c.truncate(end)
}

// unpackConcurrency is how many files are unpacked at once; each takes 400 KiB of memory.
const unpackConcurrency = 4

// entry writes a file; for a folder, and for what is left out, it does nothing.
func (u *unpacker) entry(ctx context.Context, root *os.Root, e *entry) error {
	if e.folder || e.leftOut {
		return nil
	}
	err := u.file(ctx, root, e.path(), e)
	if errors.Is(err, errContent) {
		return fault.Invalid("Not a valid zip archive: %s is not what the archive says it is", printable(e.name)).With("archive_invalid").Because(err)
	}
	if err != nil {
		return fmt.Errorf("unpack %q: %w", e.path(), err)
	}
	return nil
}

// mkdirs makes a folder and those above it. Each is made once; one that is there already was not made by this archive.
func mkdirs(root *os.Root, folder string, made map[string]bool) error {
	if made[folder] {
		return nil
	}
	if err := mkdirs(root, path.Dir(folder), made); err != nil {
		return err
	}
	made[folder] = true
	return root.Mkdir(folder, FolderMode)
}

// errContent says that data isn't what the archive promised.
var errContent = errors.New("content differs from the central directory")

// unpacker keeps what each file needs.
type unpacker struct {
	r       io.ReaderAt
	buffer  *bufio.Reader
	inflate io.ReadCloser
	copying []byte
}

func newUnpacker(r io.ReaderAt) *unpacker {
	buffer := bufio.NewReaderSize(nil, 64<<10)
	return &unpacker{r: r, buffer: buffer, inflate: flate.NewReader(buffer), copying: make([]byte, 256<<10)}
}

func (u *unpacker) file(ctx context.Context, root *os.Root, name string, e *entry) error {
	mode := FileMode
	if e.executable() {
		mode = ExecutableMode
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	packed := io.NewSectionReader(u.r, e.data, e.packed)
	content := io.Reader(packed)
	if e.method == methodDeflated {
		// The buffer is a ByteReader, so the decompressor takes from it exactly what it needs.
		u.buffer.Reset(packed)
		if err := u.inflate.(flate.Resetter).Reset(u.buffer, nil); err != nil {
			return err
		}
		content = u.inflate
	}
	sum := crc32.NewIEEE()
	// One byte more than promised is asked for, to see that there is none.
	// Without its ReadFrom the file takes what the buffer holds.
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, &contentReader{ctx: ctx, from: io.TeeReader(io.LimitReader(content, e.size+1), sum)}, u.copying)
	switch {
	case err != nil:
		return err
	case n != e.size:
		return fmt.Errorf("%w: size", errContent)
	case sum.Sum32() != e.crc:
		return fmt.Errorf("%w: checksum", errContent)
	case e.method == methodDeflated && !atEOF(u.buffer):
		return fmt.Errorf("%w: data behind the end", errContent)
	}
	folder.StartWriting(f)
	return f.Close()
}

func atEOF(r *bufio.Reader) bool {
	_, err := r.ReadByte()
	return err == io.EOF
}

// contentReader ends with its context, and distinguishes errors of the archive from those of the disk.
type contentReader struct {
	ctx  context.Context
	from io.Reader
}

func (c *contentReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errContent, err)
	}
	return n, err
}
