package upgrade

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// Folder is where an upgrade keeps what a way back needs, in the project's folder.
const Folder = ".rumi-upgrade"

const (
	recordName  = "record.json"
	composeName = "docker-compose.before.yml"
)

// Record is what was there before an upgrade.
type Record struct {
	At        time.Time         `json:"at"`
	Project   string            `json:"project"`
	From      string            `json:"from"`              // the commit of the old version
	Branch    string            `json:"branch,omitzero"`   // the branch that was checked out; "" if the upgrade checked nothing out
	Images    map[string]string `json:"images"`            // name → id, of everything that ran and of the images of containers to come
	Profiles  []string          `json:"profiles"`          // whose services ran
	Databases string            `json:"databases"`         // where their copies are, below user_data/state/backup; "" before they were made
	PutBack   bool              `json:"put_back,omitzero"` // the databases have been put back
	Backup    string            `json:"backup,omitzero"`   // the name of the backup
	Outcome   string            `json:"outcome,omitzero"`  // "upgraded" or "rolled back"; "" while it is under way
}

func (r Record) write(dir string) error {
	data, err := json.Marshal(r, jsontext.Multiline(true))
	if err != nil {
		return err
	}
	if err := atomicfile.WritePath(filepath.Join(dir, Folder, recordName), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write down what was there: %w", err)
	}
	return nil
}

// read reads the record of the last upgrade. ok is false if there was none.
func read(dir string) (r Record, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, Folder, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("read what was there before the last upgrade: %w", err)
	}
	return r, true, nil
}
