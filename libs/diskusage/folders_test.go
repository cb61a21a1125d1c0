package diskusage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/libs/diskusage"
)

func TestFolders(t *testing.T) {
	home := t.TempDir()
	for name, size := range map[string]int{
		"packs/chat/db": 30, "packs/.uninstalled/old/1/a": 7, "packs/.uninstalled/old/2/a": 5, "caps/trees/x": 3, "caps/trees/y/z": 4, "odd/a b/f": 1,
	} {
		path := filepath.Join(home, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	items, err := diskusage.Folders(t.Context(), home,
		diskusage.Folder{Path: "packs", Depth: 1, Kind: "data", Packs: true},
		diskusage.Folder{Path: "packs/.uninstalled", Depth: 2, Kind: "gone", Packs: true, Removable: true},
		diskusage.Folder{Path: "caps/trees", Kind: "trees"},
		diskusage.Folder{Path: "odd", Depth: 1, Kind: "odd", Removable: true},
		diskusage.Folder{Path: "nothing", Depth: 1, Kind: "nothing"}, diskusage.Folder{Path: "nothing/else", Kind: "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range items {
		got = append(got, fmt.Sprintf("%s %s %s %d %v %s %s", i.Path, i.Kind, i.PackID, i.Bytes, i.Removable, i.Remove, i.Error))
	}
	want := []string{
		"user_data/packs/chat data chat 30 false  ",
		"user_data/packs/.uninstalled/old/1 gone old 7 true rm -rf -- user_data/packs/.uninstalled/old/1 ",
		"user_data/packs/.uninstalled/old/2 gone old 5 true rm -rf -- user_data/packs/.uninstalled/old/2 ",
		"user_data/caps/trees trees  7 false  ",
		"user_data/odd/a b odd  1 true rm -rf -- 'user_data/odd/a b' ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
