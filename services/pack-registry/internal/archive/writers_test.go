package archive_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
)

const (
	ofAll     = "p/ecosystem.json p/main.py p/run.sh"
	leftOut   = "__MACOSX/ is left out: 2 files that macOS adds to archives; no pack needs them"
	leftOut3  = "__MACOSX/ is left out: 3 files that macOS adds to archives; no pack needs them"
	finder    = "p/.DS_Store p/ecosystem.json p/main.py p/run.sh p/か\u3099く.txt"
	codePages = `Invalid name in archive: "p/\x95\\\x8e\xa6\x90ݒ\xe8.txt" (it is not UTF-8; as Japanese (CP932) it is 'p/表示設定.txt'. Make the archive again with names in UTF-8: `
)

// writers are archives as programs write them that people pack with (testdata/writers/make.py), and the files in each.
var writers = map[string]struct{ files, warning string }{
	"zip-to-a-pipe":                          {ofAll, ""},
	"zip-to-a-pipe-stored":                   {ofAll, ""},
	"zip-fz":                                 {ofAll, ""},
	"zip-fd":                                 {ofAll, ""},
	"streamed-size-known":                    {ofAll, ""},
	"streamed-crc-known":                     {ofAll, ""},
	"streamed-no-signature":                  {ofAll, ""},
	"streamed-wide-descriptor":               {ofAll, ""},
	"streamed-wide-descriptor-no-signature":  {ofAll, ""},
	"streamed-zip64-field":                   {ofAll, ""},
	"streamed-zip64-field-narrow-descriptor": {ofAll, ""},
	"zip64-end-known":                        {ofAll, ""},
	"zip64-end-unknown":                      {ofAll, ""},
	"zip64-end-all":                          {ofAll, ""},
	"zip64-forced":                           {ofAll, ""},
	"zip64-forced-disk":                      {ofAll, ""},
	"zip64-offset-only":                      {ofAll, ""},
	"finder":                                 {finder, leftOut},
	"finder-two-chosen":                      {finder, leftOut3},
	"infozip-windows-cp932":                  {"p/ecosystem.json p/日本語/能.py p/表示設定.txt", ""},
	"7zip-cp437":                             {"p/ecosystem.json p/größe.txt", ""},
}

func TestAcceptsWhatProgramsWrite(t *testing.T) {
	for name, c := range writers {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "writers", name+".zip")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			a, err := open(data)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(a.Warnings, "\n"); got != c.warning {
				t.Errorf("warnings: got %q, want %q", got, c.warning)
			}
			got := extracted(t, data)
			if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != c.files {
				t.Errorf("got the files %q, want %q", names, c.files)
			}
			agreesWithPython(t, file, got)
		})
	}
}

// extracted are the files of an archive, by path.
func extracted(t *testing.T, data []byte) map[string]string {
	t.Helper()
	a, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	to := root(t)
	if err := a.Extract(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	err = fs.WalkDir(to.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(to.FS(), path)
		found[a.Top+"/"+path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// listing prints the files of an archive as Python's zipfile has them: the names' bytes, or what a Unicode Path field says, and the
// content in hexadecimal digits.
const listing = `
import json, struct, sys, zipfile
found = {}
with zipfile.ZipFile(sys.argv[1]) as z:
    for i in z.infolist():
        if i.is_dir(): continue
        raw = i.orig_filename.encode("utf-8" if i.flag_bits & 0x800 else "cp437", "surrogateescape") if i.orig_filename.isascii() or i.flag_bits & 0x800 or all(ord(c) < 0x2600 for c in i.orig_filename) else i.orig_filename.encode()
        extra = i.extra
        while len(extra) >= 4:
            kind, size = struct.unpack("<HH", extra[:4])
            if kind == 0x7075: raw = extra[9:4 + size]
            extra = extra[4 + size:]
        found[raw.decode()] = z.read(i).hex()
print(json.dumps(found))
`

// agreesWithPython compares an archive's files with what Python's zipfile reads, where there is a Python.
func agreesWithPython(t *testing.T, file string, got map[string]string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		return
	}
	out, err := exec.Command(python, "-c", listing, file).Output()
	if err != nil {
		t.Fatalf("Python's zipfile can't read it: %v", err)
	}
	var want map[string]string
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if strings.HasPrefix(name, "__MACOSX/") || name == ".DS_Store" {
			delete(want, name)
		}
	}
	hexed := map[string]string{}
	for name, content := range got {
		hexed[name] = hex.EncodeToString([]byte(content))
	}
	if !maps.Equal(hexed, want) {
		t.Errorf("got %v,\nPython's zipfile has %v", slices.Sorted(maps.Keys(hexed)), slices.Sorted(maps.Keys(want)))
	}
}

func TestNamesInACodePage(t *testing.T) {
	data, err := os.ReadFile("testdata/writers/explorer-cp932.zip")
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(data)
	if f := fault.Of(err); !strings.HasPrefix(f.Message, codePages) || f.Code != "archive_invalid_name" {
		t.Errorf("got  %v\nwant %s", err, codePages)
	}
}

// What hides something in the fields that writers differ in is refused, whoever seems to have written it.
func TestRefusesForgedFields(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", "writers", name+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	end64 := func(data []byte, at int, value byte) []byte { return patch(data, "PK\x06\x06", 0, at, value) }
	locator := func(data []byte, at int, value byte) []byte { return patch(data, "PK\x06\x07", 0, at, value) }
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"size known and wrong":            {patchLocal(read("streamed-size-known"), 0, 22, 1), "disagree on the size or checksum of p/ecosystem.json"},
		"packed size known and wrong":     {patchLocal(read("streamed-size-known"), 0, 18, 1), "disagree on the size or checksum of p/ecosystem.json"},
		"checksum known and wrong":        {patchLocal(read("streamed-crc-known"), 0, 14, 1), "disagree on the size or checksum of p/ecosystem.json"},
		"wide descriptor, high half":      {patch(read("streamed-wide-descriptor"), "PK\x07\x08", 0, 12, 1), "disagree on the size or checksum of p/ecosystem.json"},
		"sizes zero without a descriptor": {patchLocal(read("zip64-end-known"), 0, 22, 0), "disagree on the size or checksum of p/ecosystem.json"},
		"ZIP64: another count":            {end64(read("zip64-end-known"), 24, 9), "central directory not where the ZIP64 end record says"},
		"ZIP64: two counts":               {end64(end64(read("zip64-end-known"), 24, 2), 32, 2), "end record and ZIP64 end record disagree"},
		"ZIP64: another length":           {end64(read("zip64-end-known"), 40, 9), "end record and ZIP64 end record disagree"},
		"ZIP64: another length, alone":    {end64(read("zip64-end-unknown"), 40, 9), "central directory not where the end record says"},
		"ZIP64: another offset":           {end64(read("zip64-end-unknown"), 48, 9), "central directory not where the end record says"},
		"ZIP64: an offset of 2^63":        {end64(read("zip64-end-unknown"), 55, 0x80), "central directory not where the ZIP64 end record says"},
		"ZIP64: a count of 2^56":          {end64(end64(read("zip64-end-unknown"), 31, 1), 39, 1), "central directory not where the ZIP64 end record says"},
		"ZIP64: second part":              {end64(read("zip64-end-known"), 16, 1), "in several parts"},
		"ZIP64: of two parts":             {locator(read("zip64-end-known"), 16, 2), "in several parts"},
		"ZIP64: record elsewhere":         {locator(read("zip64-end-known"), 8, 1), "ZIP64 end record not where its locator says"},
		"ZIP64: no record":                {end64(read("zip64-end-known"), 0, 'Q'), "ZIP64 end record is damaged"},
		"ZIP64: longer record":            {end64(read("zip64-end-known"), 4, 45), "ZIP64 end record is damaged or of a kind that is not supported"},
		"ZIP64: no locator":               {locator(read("zip64-end-unknown"), 0, 'Q'), "the ZIP64 end record is missing"},
		"ZIP64: part, no record":          {patchEnd(read("zip-to-a-pipe"), 4, 0xff), "in several parts"},
		"ZIP64: field too short":          {patch(read("zip64-forced"), "\x01\x00\x18\x00", 0, 2, 0x10), "ZIP64 field of p/ecosystem.json has not the numbers that it needs"},
		"ZIP64: size of 4 GiB":            {patch(read("zip64-forced"), "\x01\x00\x18\x00", 0, 8, 1), "p/ecosystem.json has 4 GiB or more"},
		"ZIP64: disk 1":                   {patch(read("zip64-forced-disk"), "\x01\x00\x1c\x00", 0, 28, 1), "in several parts"},
		"Unicode Path: other checksum":    {patch(read("infozip-windows-cp932"), "up", 4, 5, 1), "two names of"},
		"Unicode Path: other name":        {patch(read("infozip-windows-cp932"), "up", 1, 13, 1), "two names of"},
		"Unicode Path: name by no page":   {bytes.ReplaceAll(read("7zip-cp437"), []byte("größe"), []byte("grüße")), "two names of"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(c.data)
			f := fault.Of(err)
			if err == nil || f.Code != "archive_invalid" || !strings.Contains(f.Message, c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// Only what macOS adds is left out, and only where there is something else.
func TestLeavesOutWhatMacOSAddsOnly(t *testing.T) {
	for name, c := range map[string]struct {
		items []item
		want  string
	}{
		"code in the folder":  {files("p/a", "__MACOSX/p/._a", "__MACOSX/p/evil.py"), "Archive must have exactly one top-level directory, found 2: ['__MACOSX', 'p']"},
		"another file":        {files("p/a", "Thumbs.db"), "Archive must have exactly one top-level directory, found 2: ['Thumbs.db', 'p']"},
		"traversal":           {files("p/a", "__MACOSX/../._a"), "Path traversal detected in archive: __MACOSX/../._a"},
		"two, with metadata":  {files("p/a", "q/b", "__MACOSX/._p"), "Archive must have exactly one top-level directory, found 2: ['p', 'q']"},
		"a link":              {[]item{{name: "p/a"}, {name: "__MACOSX/._a", content: "x", mode: fs.ModeSymlink | 0o777}}, "Symbolic link in archive rejected: __MACOSX/._a"},
		"one name, two files": {files("p/a", "__MACOSX/._a", "__MACOSX/._a"), "Name twice in archive: __MACOSX/._a"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(zipped(t, c.items...)); err == nil || fault.Of(err).Message != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if a, err := open(zipped(t, files("__MACOSX/._a", "__MACOSX/ecosystem.json")...)); err != nil || a.Top != "__MACOSX" || a.Files != 2 {
		t.Errorf("a pack of that name: got %+v, %v; want top __MACOSX, files 2", a, err)
	}
}
