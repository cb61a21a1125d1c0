package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const maxWindow = 64 << 20 // bytes of memory that a backup may ask its reader for

// Report is the result of a verification.
type Report struct {
	File      string     `json:"file"`
	OK        bool       `json:"ok"`
	Head      Head       `json:"backup"`
	Files     int        `json:"files"`
	Bytes     int64      `json:"bytes"`
	Databases []Database `json:"databases"`
	LeftOut   []LeftOut  `json:"left_out"`
	Notes     []LeftOut  `json:"notes"`
	Problems  []Problem  `json:"problems"`
	Took      float64    `json:"took_seconds"`
}

// Damaged says whether the backup is not what was written: it can't be restored. Other problems are the home's, as it was when it was backed up.
func (r Report) Damaged() bool {
	return slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Check == checkArchive || p.Check == checkDatabase })
}

// Source is a backup's file, and what opens it.
type Source struct {
	File       string
	Identities []age.Identity
	Scratch    string // a folder for copies of the databases; "" for the system's
}

// Verify reads a backup from beginning to end: everything is compared with the manifest, each database is checked, and so is whether what the
// databases name is there. It changes nothing but the scratch folder. An error says that this could not be found out, because the file can't
// be read, or isn't encrypted for any of the identities.
func Verify(ctx context.Context, s Source) (Report, error) {
	v, err := s.inspect(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify %s: %w", s.File, err)
	}
	defer v.close()
	return v.report, nil
}

// verified is a backup that was read from beginning to end.
type verified struct {
	report Report
	m      *manifest // nil if the manifest can't be used
	copies *copies
}

func (v *verified) close() { v.copies.close() }

// inspect reads a backup and checks everything.
func (s Source) inspect(ctx context.Context) (_ *verified, err error) {
	began := time.Now()
	scratch := s.Scratch
	if scratch == "" {
		scratch = os.TempDir()
	}
	c, err := newCopies(scratch)
	if err != nil {
		return nil, err
	}
	v := &verified{copies: c, report: Report{File: s.File, Problems: []Problem{}}}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	read := &reader{ctx: ctx, seen: map[string]seen{}, content: newContent(), copies: c}
	var damaged *damagedError
	if err := s.each(ctx, read.entry); errors.As(err, &damaged) {
		v.report.Problems = append(v.report.Problems, Problem{Check: checkArchive, Path: s.File, What: damaged.Error()})
	} else if err != nil {
		return nil, err
	}
	v.m = read.m
	if err := v.check(ctx, read); err != nil {
		return nil, err
	}
	v.report.OK = !slices.ContainsFunc(v.report.Problems, func(p Problem) bool { return !p.Warning })
	v.report.Took = time.Since(began).Seconds()
	return v, nil
}

// check compares what was read with the manifest.
func (v *verified) check(ctx context.Context, read *reader) error {
	if v.m == nil {
		if len(v.report.Problems) == 0 {
			v.report.Problems = append(v.report.Problems, Problem{Check: checkArchive, Path: v.report.File, What: "it has no manifest: it was cut off while it was written"})
		}
		return nil
	}
	r := &v.report
	r.Head, r.Files, r.Bytes, r.LeftOut, r.Notes = v.m.Head, v.m.Files, v.m.Bytes, v.m.LeftOut, v.m.Notes
	for _, name := range v.m.sorted() {
		if what := read.seen[name].differs(v.m.entries[name]); what != "" {
			r.Problems = append(r.Problems, Problem{Check: checkArchive, Path: name, What: what})
		}
	}
	for _, want := range v.m.Databases {
		if what := checkDatabaseOf(ctx, want, read.copies.files); what != "" {
			r.Problems = append(r.Problems, Problem{Check: checkDatabase, Path: want.Path, What: what})
		}
		r.Databases = append(r.Databases, want)
	}
	if r.Damaged() {
		return ctx.Err() // what is missing would be named many times
	}
	more, err := checkReferences(ctx, v.m, read.content, read.copies.files)
	r.Problems = append(r.Problems, more...)
	return err
}

// checkDatabaseOf says what is wrong with the copy of a database, "" for nothing.
func checkDatabaseOf(ctx context.Context, want Database, files map[string]string) string {
	file, ok := files[want.Path]
	if !ok {
		return "it is missing"
	}
	got, err := describe(ctx, file, want.Path)
	if err != nil {
		return err.Error()
	}
	return same(want, got)
}

// damagedError is an error that says that a file is not what was written.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }

// each calls visit with each entry of a backup. A *damagedError says that the rest can't be read.
func (s Source) each(ctx context.Context, visit func(number int, h *tar.Header, content io.Reader) error) error {
	f, err := os.OpenFile(s.File, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := age.Decrypt(f, s.Identities...)
	if _, none := errors.AsType[*age.NoIdentityMatchError](err); none {
		return errors.New("the key or the passphrase that was given does not open it")
	} else if err != nil {
		return fmt.Errorf("it is no backup, or damaged at its beginning: %w", err)
	}
	unpacked, err := zstd.NewReader(&within{ctx: ctx, r: plain}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return &damagedError{err}
	}
	defer unpacked.Close()
	if err := visitAll(unpacked, visit); err != nil {
		return err
	}
	// The rest, so that a file that was cut off or lengthened is found out.
	if n, err := io.Copy(io.Discard, unpacked); err != nil {
		return &damagedError{fmt.Errorf("it is damaged at its end: %w", err)}
	} else if n > 64<<10 {
		return &damagedError{errors.New("something follows its end")}
	}
	return nil
}

// visitAll calls visit with each entry of a tar.
func visitAll(archive io.Reader, visit func(number int, h *tar.Header, content io.Reader) error) error {
	in := tar.NewReader(archive)
	for number := 0; ; number++ {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damagedBy(err)
		}
		if err := visit(number, h, in); err != nil {
			return err
		}
	}
}

// reader checks the entries of a backup as they pass by.
type reader struct {
	ctx     context.Context
	seen    map[string]seen
	content *content
	copies  *copies
	m       *manifest
}

// seen is the last entry of a path that passed by.
type seen struct {
	found  bool
	number int
	size   int64
	sum    string
	link   string
	kind   kind
}

// differs says how an entry is not what the manifest says, "" for not at all.
func (s seen) differs(e Entry) string {
	switch {
	case !s.found:
		return "it is missing"
	case s.number != e.Number || s.kind != e.Kind || s.link != e.Link:
		return "it is another entry than the manifest says"
	case s.size != e.Size:
		return fmt.Sprintf("it has %d bytes, and the manifest says %d", s.size, e.Size)
	case e.Kind == fileKind && s.sum != e.SHA256:
		return "its content is not what was backed up"
	}
	return ""
}

func (r *reader) entry(number int, h *tar.Header, content io.Reader) error {
	if r.m != nil {
		return &damagedError{errors.New("something follows the manifest")}
	}
	switch h.Name {
	case headName:
		_, err := io.Copy(io.Discard, io.LimitReader(content, maxKey))
		return damagedBy(err)
	case manifestName:
		m, err := readManifest(content)
		if err != nil {
			return damagedBy(err)
		}
		r.m = m
		return nil
	}
	s := seen{found: true, number: number, size: h.Size, link: h.Linkname}
	switch h.Typeflag {
	case tar.TypeDir:
		s.kind = folderKind
	case tar.TypeSymlink:
		s.kind = linkKind
	case tar.TypeReg:
		s.kind = fileKind
	default:
		return &damagedError{fmt.Errorf("%q is nothing that a backup has", h.Name)}
	}
	name := strings.TrimSuffix(h.Name, "/")
	for record := range h.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") { // a few bytes that unpack to exabytes
			return &damagedError{fmt.Errorf("%q is a sparse file, which no backup has", name)}
		}
	}
	if len(r.seen) >= maxEntries || len(name) > maxPath {
		return &damagedError{errors.New("it has more than a backup can have")}
	}
	if s.kind == fileKind {
		var err error
		if s.sum, err = r.file(name, h.Size, content); err != nil {
			return err
		}
	}
	r.seen[name] = s
	return nil
}

// file reads the content of a file; a database is copied to the scratch folder.
func (r *reader) file(name string, size int64, content io.Reader) (string, error) {
	hash := sha256.New()
	to := []io.Writer{hash}
	look := r.content.sinkOf(name)
	if look != nil {
		to = append(to, look)
	}
	var spool *os.File
	if isDatabase(name) {
		if err := roomFor(r.copies.dir, size); err != nil {
			return "", err
		}
		var err error
		if spool, err = os.Create(r.copies.target(name)); err != nil {
			return "", err
		}
		defer spool.Close()
		r.copies.files[name] = spool.Name()
		to = append(to, spool)
	}
	if _, err := io.Copy(io.MultiWriter(to...), content); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return "", err
		}
		return "", damagedBy(err)
	}
	if look != nil {
		look.end()
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func damagedBy(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &damagedError{err}
}

// roomFor fails where a folder's file system has too little room for a number of bytes.
func roomFor(dir string, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; bytes < 0 || free < bytes {
		return fmt.Errorf("%s has %d MiB free, and %d MiB are needed", dir, free>>20, bytes>>20)
	}
	return nil
}
