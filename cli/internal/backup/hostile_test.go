package backup

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// evil writes an archive whose manifest says what its entries say.
func evil(entries ...tar.Header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	m := manifest{Summary: Summary{Head: Head{Format: formatVersion}}, entries: map[string]Entry{}}
	lines := []Entry{{Path: "user_data", Kind: folderKind, Mode: 0o755}, {Path: "ecosystem", Kind: folderKind, Mode: 0o755}}
	all := append([]tar.Header{{Name: "user_data/", Typeflag: tar.TypeDir}, {Name: "ecosystem/", Typeflag: tar.TypeDir}}, entries...)
	for i, h := range all {
		_ = w.WriteHeader(&h)
		if i < 2 {
			lines[i].Number = i
			continue
		}
		e := Entry{Path: strings.TrimSuffix(h.Name, "/"), Kind: fileKind, Mode: 0o644, Number: i, Link: h.Linkname,
			SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
		switch h.Typeflag {
		case tar.TypeDir:
			e.Kind, e.SHA256 = folderKind, ""
		case tar.TypeSymlink, tar.TypeLink:
			e.Kind, e.SHA256 = linkKind, ""
		}
		lines = append(lines, e)
	}
	var list bytes.Buffer
	m.Entries = len(lines)
	for _, e := range lines {
		if e.Kind == fileKind {
			m.Files++
		}
	}
	_ = json.MarshalWrite(&list, m.Summary)
	for _, e := range lines {
		list.WriteByte('\n')
		_ = json.MarshalWrite(&list, e)
	}
	_ = w.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(list.Len())})
	_, _ = w.Write(list.Bytes())
	_ = w.Close()
	return out.Bytes()
}

// unpack reads an archive twice, as a verification and a restore do, into a folder of its own, and returns why it was refused.
func unpack(t testing.TB, archive []byte, dir string) error {
	c, err := newCopies(t.TempDir())
	must(t, err)
	defer c.close()
	r := &reader{ctx: t.Context(), seen: map[string]seen{}, content: newContent(), copies: c}
	if err := visitAll(bytes.NewReader(archive), r.entry); err != nil {
		return err
	}
	v := &verified{m: r.m, copies: c}
	if err := v.check(t.Context(), r); err != nil {
		return err
	}
	if r.m == nil || v.report.Damaged() {
		return errManifest
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	x := &extraction{ctx: t.Context(), root: root, m: r.m}
	for _, step := range []func() error{x.folders, func() error { return visitAll(bytes.NewReader(archive), x.entry) }, x.links, x.finish, x.compare} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestHostileArchives(t *testing.T) {
	link := tar.Header{Name: "user_data/packs/x/link", Typeflag: tar.TypeSymlink, Linkname: "/etc"}
	packs := []tar.Header{{Name: "user_data/packs/", Typeflag: tar.TypeDir}, {Name: "user_data/packs/x/", Typeflag: tar.TypeDir}}
	for name, c := range map[string]struct {
		entries []tar.Header
		refused bool
	}{
		"a plain file":                {[]tar.Header{{Name: "user_data/file", Typeflag: tar.TypeReg}}, false},
		"a link of a pack":            {append(packs, link), false},
		"a path that leads out":       {[]tar.Header{{Name: "user_data/../../out", Typeflag: tar.TypeReg}}, true},
		"an absolute path":            {[]tar.Header{{Name: "/out", Typeflag: tar.TypeReg}}, true},
		"a file of the home's root":   {[]tar.Header{{Name: "docker-compose.yml", Typeflag: tar.TypeReg}}, true},
		"a link for a pack's folder":  {append(packs[:1:1], tar.Header{Name: "user_data/packs/x", Typeflag: tar.TypeSymlink, Linkname: "/etc"}), true},
		"a link in the settings":      {[]tar.Header{{Name: "user_data/settings", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, true},
		"a file behind a link":        {append(packs, link, tar.Header{Name: "user_data/packs/x/link/passwd", Typeflag: tar.TypeReg}), true},
		"a file in no folder":         {[]tar.Header{{Name: "user_data/no/folder", Typeflag: tar.TypeReg}}, true},
		"a hard link":                 {append(packs, tar.Header{Name: "user_data/packs/x/a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), true},
		"a device":                    {append(packs, tar.Header{Name: "user_data/packs/x/a", Typeflag: tar.TypeChar}), true},
		"a folder that is left out":   {[]tar.Header{{Name: "user_data/state/", Typeflag: tar.TypeDir}, {Name: "user_data/state/backup/", Typeflag: tar.TypeDir}}, true},
		"a path that appears as both": {append(packs, link, tar.Header{Name: "user_data/packs/x/link/", Typeflag: tar.TypeDir}), true},
	} {
		dir := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(dir, 0o755))
		err := unpack(t, evil(c.entries...), dir)
		if (err != nil) != c.refused {
			t.Errorf("%s: got %v, want refused: %v", name, err, c.refused)
		}
		if found, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(found) != 1 {
			t.Errorf("%s: beside the folder is %v, %v; want nothing", name, found, err)
		}
	}
}

// A sparse file of an exabyte takes a few hundred bytes in an archive. It must not be read.
func TestSparseFile(t *testing.T) {
	// archive/tar doesn't write sparse files: the header is made by hand, as GNU tar makes one in the form 1.0.
	var out bytes.Buffer
	pax := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=user_data/file", "GNU.sparse.realsize=1000000000000000000"} {
		pax += fmt.Sprintf("%d %s\n", len(r)+4, r) // its own length counts: two digits, a space, a newline
	}
	for _, part := range []struct {
		flag byte
		data string
	}{{'x', pax}, {'0', "1\n0\n0\n" + strings.Repeat("\x00", 506)}} {
		header := make([]byte, 512)
		copy(header, "user_data/file")
		copy(header[100:], "0000644\x000000000\x000000000\x00")
		copy(header[124:], fmt.Sprintf("%011o\x00%011o\x00", len(part.data), 0))
		copy(header[148:], "        ")
		header[156] = part.flag
		copy(header[257:], "ustar\x0000")
		sum := 0
		for _, c := range header {
			sum += int(c)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		out.Write(header)
		out.WriteString(part.data)
		out.Write(make([]byte, (512-len(part.data)%512)%512))
	}
	out.Write(make([]byte, 1024))
	done := make(chan error, 1)
	go func() { done <- unpack(t, out.Bytes(), t.TempDir()) }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "sparse") {
			t.Errorf("got %v, want that it is refused as a sparse file", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is still being read after 10 s")
	}
}

// Whatever an archive says, nothing is made outside of the folder, and nothing panics.
func FuzzArchive(f *testing.F) {
	f.Add(evil(tar.Header{Name: "user_data/file", Typeflag: tar.TypeReg}))
	f.Add(evil(tar.Header{Name: "user_data/packs/", Typeflag: tar.TypeDir}, tar.Header{Name: "user_data/packs/x/", Typeflag: tar.TypeDir},
		tar.Header{Name: "user_data/packs/x/link", Typeflag: tar.TypeSymlink, Linkname: "../../../out"}))
	f.Add(evil(tar.Header{Name: "../out", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		must(t, os.Mkdir(dir, 0o755))
		_ = unpack(t, archive, dir)
		if found, err := os.ReadDir(top); err != nil || len(found) != 1 {
			t.Fatalf("beside the folder is %v, %v; want nothing", found, err)
		}
	})
}

// A manifest that is accepted describes only what can be made inside of a folder.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"entries":1,"files":0,"bytes":0}` + "\n" + `{"path":"user_data","kind":"dir","mode":493,"uid":0,"gid":0,"number":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readManifest(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out bytes.Buffer
		must(t, m.write(&out))
		if _, err := readManifest(io.Reader(&out)); err != nil {
			t.Fatalf("can't read again what was written: %v", err)
		}
	})
}
