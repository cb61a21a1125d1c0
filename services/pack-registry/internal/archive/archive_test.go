package archive_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/archive"
)

// item is an entry to write. Each pair {name, content} is a file, or a folder where the name ends in "/".
type item struct {
	name, content string
	mode          fs.FileMode
	store         bool
}

func files(names ...string) []item {
	var items []item
	for _, name := range names {
		items = append(items, item{name: name, content: "content of " + name})
	}
	return items
}

// zipped writes an archive as most tools do.
func zipped(t testing.TB, items ...item) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, i := range items {
		header := &zip.FileHeader{Name: i.name, Method: zip.Deflate, Modified: time.Unix(1e9, 0)}
		if i.store {
			header.Method = zip.Store
		}
		if i.mode != 0 {
			header.SetMode(i.mode)
		}
		f, err := w.CreateHeader(header)
		if err == nil && !strings.HasSuffix(i.name, "/") {
			_, err = io.WriteString(f, i.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// raw writes stored entries without descriptors, as tools do that know sizes beforehand.
func raw(t testing.TB, change func(h *zip.FileHeader), items ...item) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, i := range items {
		h := &zip.FileHeader{Name: i.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE([]byte(i.content)),
			CompressedSize64: uint64(len(i.content)), UncompressedSize64: uint64(len(i.content))}
		if change != nil {
			change(h)
		}
		f, err := w.CreateRaw(h)
		if err == nil {
			_, err = io.WriteString(f, i.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func good() []item {
	return []item{{name: "p/"}, {name: "p/ecosystem.json", content: `{"pack_id": "p"}`}, {name: "p/backend/main.py", content: strings.Repeat("x = 1\n", 1000)},
		{name: "p/empty/"}, {name: "p/run.sh", content: "#!/bin/sh\n", mode: 0o755}, {name: "p/日本語.txt", content: "ok"}, {name: "p/zero"}}
}

func TestAccepts(t *testing.T) {
	for name, data := range map[string][]byte{
		"deflated":             zipped(t, good()...),
		"stored":               raw(t, nil, files("p/ecosystem.json", "p/a/b/c")...),
		"with a comment":       commented(t, "3f1c9a2 of a forge"),
		"nested archive":       zipped(t, item{name: "p/ecosystem.json", content: "{}"}, item{name: "p/inner.zip", content: string(zipped(t, files("../evil")...)), store: true}),
		"folders out of order": zipped(t, files("p/a/b", "p/a/", "p/")[0], item{name: "p/a/"}, item{name: "p/"}),
		"deflated folder": folder(raw(t, func(h *zip.FileHeader) {
			if h.Name == "p/dx" { // as Java writes it
				h.UncompressedSize64, h.CRC32, h.Method, h.ExternalAttrs = 0, 0, zip.Deflate, 0x10
			}
		}, item{name: "p/dx", content: "\x03\x00"}, item{name: "p/a", content: "x"})),
		"2000 files": zipped(t, many(2000)...),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := open(data)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Extract(t.Context(), root(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExtract(t *testing.T) {
	a, err := open(zipped(t, good()...))
	if err != nil {
		t.Fatal(err)
	}
	if a.Top != "p" || a.Files != 5 {
		t.Errorf("top %q, %d files; want p and 5", a.Top, a.Files)
	}
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Extract(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, i := range good() {
		path := filepath.Join(dir, strings.TrimPrefix(i.name, "p/"))
		info, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.IsDir() {
			continue
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != i.content {
			t.Errorf("%s is %q, %v; want %q", i.name, content, err, i.content)
		}
		if executable := info.Mode()&0o100 != 0; executable != (i.mode&0o100 != 0) {
			t.Errorf("%s has mode %v; want it executable: %v", i.name, info.Mode(), i.mode&0o100 != 0)
		}
	}
	if err := a.Extract(t.Context(), r); err == nil {
		t.Error("unpacked over what was there")
	}
}

func TestRefuses(t *testing.T) {
	const notValid = "Not a valid zip archive: x.zip"
	simple := zipped(t, files("p/ecosystem.json", "p/a")...)
	stored := raw(t, nil, files("p/ecosystem.json", "p/a")...)
	for name, c := range map[string]struct {
		data []byte
		want string // what the error begins with
	}{
		"climbs":                  {zipped(t, files("p/a", "../x")...), "Path traversal detected in archive: ../x"},
		"climbs inside":           {zipped(t, files("p/a", "p/../../x")...), "Path traversal detected in archive: p/../../x"},
		"climbs and comes back":   {zipped(t, files("p/a", "p/../p/x")...), "Path traversal detected in archive: p/../p/x"},
		"only dots":               {zipped(t, files("p/a", "..")...), "Path traversal detected in archive: .."},
		"climbs with a backslash": {zipped(t, files("p/a", `..\x`)...), `Path traversal detected in archive: ..\x`},
		"mixed slashes":           {zipped(t, files("p/a", `p/..\../x`)...), `Path traversal detected in archive: p/..\../x`},
		"rooted":                  {zipped(t, files("p/a", "/x")...), "Absolute path in archive: /x"},
		"rooted with a backslash": {zipped(t, files("p/a", `\x`)...), `Absolute path in archive: \x`},
		"drive":                   {zipped(t, files("p/a", `C:\x`)...), `Absolute path in archive: C:\x`},
		"drive with a slash":      {zipped(t, files("p/a", "C:/x")...), "Absolute path in archive: C:/x"},
		"UNC":                     {zipped(t, files("p/a", `\\host\share\x`)...), `Absolute path in archive: \\host\share\x`},
		"backslash":               {zipped(t, files("p/a", `p\b`)...), `Invalid name in archive: p\b`},
		"two slashes":             {zipped(t, files("p/a", "p//b")...), "Invalid name in archive: p//b"},
		"dot":                     {zipped(t, files("p/a", "p/./b")...), "Invalid name in archive: p/./b"},
		"empty name":              {zipped(t, files("p/a", "")...), "Invalid name in archive: "},
		"newline":                 {zipped(t, files("p/a", "p/b\nc")...), `Invalid name in archive: "p/b\nc"`},
		"escape":                  {zipped(t, files("p/a", "p/\x1b[2J")...), `Invalid name in archive: "p/\x1b[2J"`},
		"DEL":                     {zipped(t, files("p/a", "p/\x7f")...), `Invalid name in archive: "p/\x7f"`},
		"NUL":                     {zipped(t, files("p/a", "p/a\x00.py")...), notValid},
		"bidirectional mark":      {zipped(t, files("p/a", "p/\u202eyp.exe")...), `Invalid name in archive: "p/\u202eyp.exe"`},
		"zero width":              {zipped(t, files("p/a", "p/a\u200b")...), `Invalid name in archive: "p/a\u200b"`},
		"not UTF-8":               {zipped(t, files("p/a", "p/\xff")...), `Invalid name in archive: "p/\xff"`},
		"long component":          {zipped(t, files("p/"+strings.Repeat("a", 256))...), "Invalid name in archive: p/aaa"},
		"deep":                    {zipped(t, files("p/"+strings.Repeat("d/", 40)+"x")...), "Invalid name in archive: p/d/d"},
		"link":                    {zipped(t, item{name: "p/a"}, item{name: "p/l", content: "/etc/passwd", mode: fs.ModeSymlink | 0o777}), "Symbolic link in archive rejected: p/l"},
		"through a link":          {zipped(t, item{name: "p/l", content: "/tmp", mode: fs.ModeSymlink | 0o777}, item{name: "p/l/x"}), "Symbolic link in archive rejected: p/l"},
		"link of another system":  {raw(t, func(h *zip.FileHeader) { h.ExternalAttrs = 0o120777 << 16; h.CreatorVersion = 0 }, files("p/l")...), "Symbolic link in archive rejected: p/l"},
		"device":                  {zipped(t, item{name: "p/d", mode: fs.ModeDevice | 0o666}), "Special file in archive rejected: p/d"},
		"FIFO":                    {zipped(t, item{name: "p/d", mode: fs.ModeNamedPipe | 0o666}), "Special file in archive rejected: p/d"},
		"socket":                  {zipped(t, item{name: "p/d", mode: fs.ModeSocket | 0o666}), "Special file in archive rejected: p/d"},
		"folder by mode only":     {raw(t, func(h *zip.FileHeader) { h.SetMode(fs.ModeDir | 0o755) }, files("p/d")...), "Neither file nor folder in archive: p/d"},
		"folder to other systems": {raw(t, func(h *zip.FileHeader) { h.ExternalAttrs = 0x10 }, files("p/d")...), "Neither file nor folder in archive: p/d"},
		"folder with packed data": {folder(raw(t, func(h *zip.FileHeader) { h.UncompressedSize64, h.CRC32, h.Method = 0, 0, zip.Deflate }, files("p/dx")...)), "Neither file nor folder in archive: p/d/"},
		"folder with a checksum":  {folder(raw(t, func(h *zip.FileHeader) { h.CRC32 = 5 }, item{name: "p/dx"})), "Neither file nor folder in archive: p/d/"},
		"folder with content":     {folder(raw(t, nil, files("p/dx")...)), "Neither file nor folder in archive: p/d/"},
		"same name twice":         {zipped(t, files("p/a", "p/b", "p/a")...), "Name twice in archive: p/a"},
		"same folder twice":       {zipped(t, item{name: "p/"}, item{name: "p/"}, item{name: "p/a"}), "Name twice in archive: p/"},
		"file and folder":         {zipped(t, files("p/a", "p/a/b")...), "File and folder of one name in archive: p/a/b"},
		"folder and file":         {zipped(t, files("p/a/b", "p/a")...), "File and folder of one name in archive: p/a"},
		"case":                    {zipped(t, files("p/README", "p/readme")...), "Names in archive differ by case or Unicode form only: p/README, p/readme"},
		"case of a folder":        {zipped(t, files("p/A/x", "p/a/y")...), "Names in archive differ by case or Unicode form only: p/A, p/a"},
		"case beyond ASCII":       {zipped(t, files("p/straße", "p/STRASSE")...), "Names in archive differ by case or Unicode form only: p/straße, p/STRASSE"},
		"normal form":             {zipped(t, files("p/\u00e9", "p/e\u0301")...), "Names in archive differ by case or Unicode form only: "},
		"two tops":                {zipped(t, files("p/a", "q/a")...), "Archive must have exactly one top-level directory, found 2: ['p', 'q']"},
		"a file beside it":        {zipped(t, files("p/a", "README")...), "Archive must have exactly one top-level directory, found 2: ['README', 'p']"},
		"only a file":             {zipped(t, files("README")...), "Archive must have exactly one top-level directory, found 0: []"},
		"nothing":                 {zipped(t), "Archive is empty"},
		"only folders":            {zipped(t, item{name: "p/"}), "Archive is empty"},
		"2001 files":              {zipped(t, many(2001)...), "Archive contains too many files: 2001 > 2000"},
		"2001 folders":            {zipped(t, manyFolders(2001)...), "Archive contains too many folders: 2002 > 2000"},
		"bomb by ratio":           {raw(t, func(h *zip.FileHeader) { h.UncompressedSize64 = archive.MaxBytes + 1; h.Method = zip.Deflate }, files("p/zeros")...), "Archive is too large: 524288001 bytes > 524288000"},
		"bomb of many":            {raw(t, func(h *zip.FileHeader) { h.UncompressedSize64 = 300 << 20; h.Method = zip.Deflate }, files("p/a", "p/b")...), "Archive is too large: 629145600 bytes"},

		"empty":                         {nil, notValid},
		"text":                          {[]byte("this is not a zip archive, whatever its name says"), notValid},
		"cut":                           {simple[:len(simple)-1], notValid},
		"bytes after the end":           {append(slices.Clip(simple), 0), notValid},
		"bytes before the beginning":    {append([]byte("#!/bin/sh\n"), simple...), notValid},
		"two archives":                  {append(slices.Clip(simple), simple...), notValid},
		"end record in the comment":     {commented(t, string(simple[len(simple)-22:])), notValid},
		"end record, then more of it":   {commented(t, string(simple[len(simple)-22:])+"more"), notValid},
		"more entries than it says":     {patchEnd(simple, 8, 1), notValid},
		"another number of entries":     {patchEnd(simple, 10, 3), notValid},
		"fewer bytes of directory":      {patchEnd(simple, 12, 10), notValid},
		"second disk":                   {patchEnd(simple, 4, 1), notValid},
		"other local name":              {patchLocal(stored, 0, 30, 'q'), notValid},
		"other local method":            {patchLocal(stored, 0, 8, 8), notValid},
		"other local size":              {patchLocal(stored, 0, 22, 1), notValid},
		"other local packed size":       {patchLocal(stored, 0, 18, 1), notValid},
		"other local checksum":          {patchLocal(stored, 0, 14, 1), notValid},
		"other local flags":             {patchLocal(stored, 0, 6, 8), notValid},
		"no local header":               {patchLocal(stored, 0, 0, 'X'), notValid},
		"overlap":                       {patchCentral(stored, 1, 42, 0), notValid},
		"local header out of the file":  {patchCentral(stored, 1, 44, 0xff), notValid},
		"encrypted":                     {patchCentral(patchLocal(stored, 0, 6, 1), 0, 8, 1), notValid},
		"method 12":                     {patchCentral(patchLocal(stored, 0, 8, 12), 0, 10, 12), notValid},
		"two sizes":                     {patchCentral(patchLocal(stored, 0, 22, 1), 0, 24, 1), notValid},
		"descriptor differs":            {patchDescriptor(simple), notValid},
		"hidden between":                {hidden(stored), notValid},
		"second name in an extra field": {raw(t, func(h *zip.FileHeader) { h.Extra = append([]byte{0x75, 0x70, 8, 0, 1, 0, 0, 0, 0}, "p/b"...) }, files("p/a")...), notValid},
		"extra field beyond its end":    {raw(t, func(h *zip.FileHeader) { h.Extra = []byte{0x99, 0x99, 200, 0, 1} }, files("p/a")...), notValid},
		"ZIP64 size":                    {raw(t, func(h *zip.FileHeader) { h.UncompressedSize64 = 5 << 30; h.Method = zip.Deflate }, files("p/a")...), notValid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(c.data)
			f := fault.Of(err)
			if err == nil || f.Kind != fault.KindInvalid || !strings.HasPrefix(f.Message, c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// What the directories agree on may still not be what the data is.
func TestExtractRefuses(t *testing.T) {
	deflated := zipped(t, item{name: "p/a", content: strings.Repeat("abc", 1000)})
	size := func(n uint64) func(*zip.FileHeader) {
		return func(h *zip.FileHeader) { h.UncompressedSize64 = n }
	}
	packed := deflatedData(t, deflated)
	as := func(n uint64, checksum uint32) []byte {
		return raw(t, func(h *zip.FileHeader) { size(n)(h); h.Method = zip.Deflate; h.CRC32 = checksum }, item{name: "p/a", content: packed})
	}
	right := crc32.ChecksumIEEE([]byte(strings.Repeat("abc", 1000)))
	for name, data := range map[string][]byte{
		"longer than it says":  as(2999, right),
		"shorter than it says": as(3001, right),
		"says nothing":         as(0, 0),
		"checksum":             as(3000, right+1),
		"not deflated":         raw(t, func(h *zip.FileHeader) { size(3)(h); h.Method = zip.Deflate }, item{name: "p/a", content: "\xff\xff\xff"}),
		"data behind its end":  raw(t, func(h *zip.FileHeader) { size(3000)(h); h.Method = zip.Deflate; h.CRC32 = right }, item{name: "p/a", content: packed + "hidden"}),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := open(data)
			if err != nil {
				t.Fatal(err)
			}
			err = a.Extract(t.Context(), root(t))
			if f := fault.Of(err); err == nil || f.Kind != fault.KindInvalid || f.Message != "Not a valid zip archive: p/a is not what the archive says it is" {
				t.Errorf("got %v; want that p/a is not what the archive says it is", err)
			}
		})
	}
	if a, err := open(as(3000, right)); err != nil || a.Extract(t.Context(), root(t)) != nil {
		t.Errorf("the honest one is refused too: %v; want it extracted", err)
	}
}

// Consuming an archive gives what extracting it does, and leaves little of it at any time.
func TestConsume(t *testing.T) {
	const each, most = 700 << 10, 8 << 20 // bytes
	var items []item
	for i := range 40 {
		items = append(items, item{name: fmt.Sprintf("p/%d/%d", i%3, i), content: strings.Repeat(string(rune('a'+i%26)), each+i), store: i%2 == 0})
	}
	items = append(items, item{name: "p/empty/"}, item{name: "p/zero"})
	data := zipped(t, items...)
	f := spooled(t, data)
	a, err := archive.Open(f, int64(len(data)), "x.zip")
	if err != nil {
		t.Fatal(err)
	}
	last := int64(len(data))
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Consume(t.Context(), r, func(size int64) error {
		if size >= last {
			t.Errorf("cut off at %d, then at %d; want size < %v", last, size, last)
		}
		last = size
		return f.Truncate(size)
	}); err != nil {
		t.Fatal(err)
	}
	if last > most {
		t.Errorf("%d bytes of %d were left; want last <= %v", last, len(data), most)
	}
	for _, i := range items {
		info, err := os.Stat(filepath.Join(dir, strings.TrimPrefix(i.name, "p/")))
		if err != nil || info.IsDir() {
			if err != nil || i.name != "p/empty/" {
				t.Errorf("%s: %v; want only p/empty/ to be no file", i.name, err)
			}
			continue
		}
		if content, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(i.name, "p/"))); err != nil || string(content) != i.content {
			t.Errorf("%s differs, %v; want its content", i.name, err)
		}
	}
}

// What is wrong with an archive, or with cutting it, is told; of the archive a part is cut off by then.
func TestConsumeRefuses(t *testing.T) {
	content := strings.Repeat("x", 5<<20)
	items := []item{{name: "p/a", content: content}, {name: "p/b", content: content}, {name: "p/c", content: content}}
	full := errors.New("can't cut")
	for name, c := range map[string]struct {
		change   func(*zip.FileHeader)
		truncate func(*os.File, int64) error
		want     func(error) bool
	}{
		"content": {
			func(h *zip.FileHeader) {
				if h.Name == "p/a" { // the last that is unpacked
					h.CRC32++
				}
			},
			(*os.File).Truncate,
			func(err error) bool { return fault.Of(err).Code == "archive_invalid" },
		},
		"cutting": {nil, func(*os.File, int64) error { return full }, func(err error) bool { return errors.Is(err, full) }},
	} {
		data := raw(t, c.change, items...)
		f := spooled(t, data)
		a, err := archive.Open(f, int64(len(data)), "x.zip")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Consume(t.Context(), root(t), func(size int64) error { return c.truncate(f, size) }); err == nil || !c.want(err) {
			t.Errorf("%s: %v; want the error of this case", name, err)
		}
	}
}

// spooled is a file that holds an archive.
func spooled(t *testing.T, data []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	return f
}

// FuzzOpen: whatever is accepted is, to the standard library, the same archive, and stays within its bounds and its folder.
func FuzzOpen(f *testing.F) {
	f.Add(zipped(f, good()...))
	f.Add(raw(f, nil, files("p/a", "p/b/c")...))
	f.Add(zipped(f, files("p/a", "../x")...))
	for name := range writers {
		data, err := os.ReadFile(filepath.Join("testdata", "writers", name+".zip"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := open(data)
		if err != nil {
			if fault.Of(err).Kind != fault.KindInvalid {
				t.Fatalf("refused with a surprise: %v; want that it is invalid", err)
			}
			return
		}
		if a.Bytes > 64<<20 {
			return // within the bounds, but not worth the time
		}
		dir := t.TempDir()
		r, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := a.Extract(t.Context(), r); err != nil {
			return
		}
		other, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("accepted what archive/zip refuses: %v", err)
		}
		var count int
		var total int64
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			count++
			got, err := os.ReadFile(path)
			total += int64(len(got))
			name, _ := filepath.Rel(dir, path)
			same, err2 := read(other, a.Top+"/"+name)
			if err != nil || err2 != nil || !bytes.Equal(got, same) {
				return fmt.Errorf("%s differs: %w", name, errors.Join(err, err2))
			}
			return nil
		})
		if err != nil || count != a.Files || total != a.Bytes {
			t.Fatalf("%d files of %d bytes, promised %d of %d: %v; want what was promised", count, total, a.Files, a.Bytes, err)
		}
	})
}

// read is the content of a file of an archive. The standard library doesn't know names in Unicode Path fields.
func read(r *zip.Reader, name string) ([]byte, error) {
	for _, f := range r.File {
		if f.Name != name && !bytes.Contains(f.Extra, []byte("up")) || f.Name != name && !bytes.Contains(f.Extra, []byte(name)) {
			continue
		}
		content, err := f.Open()
		if err != nil {
			return nil, err
		}
		return io.ReadAll(content)
	}
	return nil, fs.ErrNotExist
}

func open(data []byte) (*archive.Archive, error) {
	return archive.Open(bytes.NewReader(data), int64(len(data)), "x.zip")
}

func root(t *testing.T) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func many(n int) []item {
	items := make([]item, n)
	for i := range items {
		items[i] = item{name: fmt.Sprintf("p/%d", i)}
	}
	return items
}

func manyFolders(n int) []item {
	items := []item{{name: "p/a", content: "x"}}
	for i := range n {
		items = append(items, item{name: fmt.Sprintf("p/%d/", i)})
	}
	return items
}

// folder makes one of the file p/dx of an archive that raw wrote.
func folder(data []byte) []byte { return bytes.ReplaceAll(data, []byte("p/dx"), []byte("p/d/")) }

func commented(t *testing.T, comment string) []byte {
	t.Helper()
	data := zipped(t, files("p/a")...)
	data = patchEnd(data, 20, byte(len(comment)))
	return append(data, comment...)
}

// patchEnd changes a byte of the end record, which has no comment.
func patchEnd(data []byte, at int, value byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-22+at] = value
	return data
}

// patchLocal changes a byte of the nth local header.
func patchLocal(data []byte, n, at int, value byte) []byte {
	return patch(data, "PK\x03\x04", n, at, value)
}

// patchCentral changes a byte of the nth entry of the central directory.
func patchCentral(data []byte, n, at int, value byte) []byte {
	return patch(data, "PK\x01\x02", n, at, value)
}

func patch(data []byte, signature string, n, at int, value byte) []byte {
	data = bytes.Clone(data)
	position := 0
	for i := 0; ; i++ {
		position += bytes.Index(data[position:], []byte(signature))
		if i == n {
			break
		}
		position += 4
	}
	if data[position+at] == value {
		value++
	}
	data[position+at] = value
	return data
}

func patchDescriptor(data []byte) []byte {
	data = bytes.Clone(data)
	data[bytes.Index(data, []byte("PK\x07\x08"))+12]++
	return data
}

// hidden puts bytes between the last entry and the central directory, and moves the directory.
func hidden(data []byte) []byte {
	start := binary.LittleEndian.Uint32(data[len(data)-6:])
	out := append(append(bytes.Clone(data[:start]), "hidden"...), data[start:]...)
	binary.LittleEndian.PutUint32(out[len(out)-6:], start+6)
	return out
}

// deflatedData is the data of the only entry as it lies in the archive.
func deflatedData(t *testing.T, data []byte) string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := r.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	return string(packed)
}
