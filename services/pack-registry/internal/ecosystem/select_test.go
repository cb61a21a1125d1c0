package ecosystem

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"syscall"
	"testing"

	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/fault"
)

func TestSelect(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/a/backend/ecosystem.json", descriptor("a", ""))
	h.write(t, "ecosystem/a/backend/requirements.lock", "x==1")
	h.write(t, "ecosystem/a/backend/share/capability_handlers/s1/handler.py", "1")
	h.write(t, "ecosystem/a/backend/share/capability_handlers/s1/handler.json", "{}")
	h.write(t, "ecosystem/a/backend/share/capability_handlers/s1/deep/handler.py", "too deep")
	h.write(t, "ecosystem/a/backend/share/capability_handlers/s2/handler.py", strings.Repeat("x", api.MaxFile+1))
	h.write(t, "ecosystem/b/ecosystem.json", descriptor("b", ""))
	h.write(t, "ecosystem/broken/ecosystem.json", "{")
	h.write(t, "ecosystem/links/ecosystem.json", descriptor("links", ""))
	check(t, os.Symlink("/etc/passwd", h.path("ecosystem/links/requirements.lock")))
	check(t, os.Symlink("../a/backend", h.path("ecosystem/links/backend")))
	h.write(t, "ecosystem/pipe/ecosystem.json", descriptor("pipe", ""))
	check(t, syscall.Mkfifo(h.path("ecosystem/pipe/requirements.lock"), 0o644))

	packs, err := h.eco.Select(t.Context(), []string{"requirements.lock", "backend/requirements.lock", "backend/share/capability_handlers/*/handler.*", "*/requirements.lock"})
	check(t, err)
	var got []string
	for _, p := range packs {
		line := p.PackID + "[" + p.Base + "]"
		for _, f := range p.Files {
			sum := sha256.Sum256(f.Content)
			if f.Error == "" && (f.SHA256 != hex.EncodeToString(sum[:]) || f.Size != int64(len(f.Content))) {
				t.Errorf("%s/%s has hash %s and size %d", p.PackID, f.Path, f.SHA256, f.Size)
			}
			line += " " + f.Path + "=" + string(f.Content) + f.Error
		}
		if p.Error != "" {
			line += " broken"
		}
		got = append(got, line)
	}
	want := []string{
		"a[backend] backend/requirements.lock=x==1 backend/share/capability_handlers/s1/handler.json={} " +
			"backend/share/capability_handlers/s1/handler.py=1 backend/share/capability_handlers/s2/handler.py=larger than 1048576 bytes",
		"b[]",
		"broken[] broken",
		"links[] requirements.lock=not a regular file",
		"pipe[] requirements.lock=not a regular file",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, bad := range [][]string{nil, {""}, {"/x"}, {"../x"}, {"a/../x"}, {"[x"}, {"a//b"}, make([]string, 33), {strings.Repeat("*/", 20) + "x"}} {
		if _, err := h.eco.Select(t.Context(), bad); fault.Of(err).Kind != fault.KindInvalid {
			t.Errorf("Select(%q): %v; want that it is invalid", bad, err)
		}
	}
}
