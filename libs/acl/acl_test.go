package acl

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// As `setfacl -m u:1000:rwx,g:1099:r-x,g:7:r` writes it on a folder of mode 0750.
func TestEncode(t *testing.T) {
	l := List{Owner: 7, Group: 5, Users: map[int]uint16{1000: 7}, Groups: map[int]uint16{1099: 5, 7: 4}}
	const want = "02000000" +
		"01000700ffffffff" +
		"02000700e8030000" +
		"04000500ffffffff" +
		"0800040007000000" +
		"080005004b040000" +
		"10000700ffffffff" +
		"20000000ffffffff"
	if got := hex.EncodeToString(l.encode()); got != want {
		t.Errorf("encoded\n%s, want\n%s", got, want)
	}
}

func TestSetDefault(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := List{Owner: 7, Group: 7, Groups: map[int]uint16{1099: 7}}
	for i, want := range []bool{true, false} {
		if changed, err := SetDefault(f, l); err != nil || changed != want {
			t.Fatalf("call %d: changed %v, %v; want %v", i+1, changed, err, want)
		}
	}

	// The umask no longer counts for what is made in it.
	old := unix.Umask(0o077)
	err = os.WriteFile(filepath.Join(dir, "file"), nil, 0o666)
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o660 {
		t.Errorf("a file made under umask 077 has mode %04o, want 0660 (the group's bits are the list's mask)", info.Mode().Perm())
	}
}
