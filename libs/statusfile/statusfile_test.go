package statusfile_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/statusfile"
)

type status struct {
	At       time.Time `json:"at"`
	Problems []string  `json:"problems"`
}

var file = statusfile.File[status]{Of: "the clock", Folder: "user_data/clock", Mode: 0o640}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	for what, none := range map[string]string{"folder": filepath.Join(dir, "missing"), "status": dir} {
		if got, ok, err := file.Read(none); ok || err != nil {
			t.Errorf("without a %s: got %+v, %v, %v; want none and no error", what, got, ok, err)
		}
	}
	if err := file.Write(filepath.Join(dir, "missing"), status{}); err == nil {
		t.Error("write without a folder: no error, want one")
	}
	for _, want := range []status{{At: time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC), Problems: []string{"x"}}, {Problems: []string{}}} {
		if err := file.Write(dir, want); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := file.Read(dir); !reflect.DeepEqual(got, want) || !ok || err != nil {
			t.Errorf("got %+v, %v, %v; want %+v", got, ok, err, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "status.json"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file: %v, %v; want mode 0640", info, err)
	}
}

func TestDamagedStatusIsAnError(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{", "[]", `{"at": 7}`, `{"at": "2026-02-01T12:00:00Z"}` + strings.Repeat(" ", 1<<20) + "x"} {
		if err := os.WriteFile(filepath.Join(dir, "status.json"), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		_, ok, err := file.Read(dir)
		if len(text) > 1<<20 { // only the beginning is read
			if !ok || err != nil {
				t.Errorf("what is beyond the bound was read: %v, %v", ok, err)
			}
			continue
		}
		if ok || err == nil || !strings.Contains(err.Error(), "user_data/clock/status.json") {
			t.Errorf("%.20q: got %v, %v; want an error that names the file", text, ok, err)
		}
	}
}
