// Package statusfile passes the status of a process on by one small JSON file, in a folder that the process writes and others mount read-only.
// So they learn how it is without reaching its data.
package statusfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

const (
	name    = "status.json"
	maxFile = 1 << 20 // bytes that are read: the file is another process's word
)

// File is the status file of one process. T is what it says.
type File[T any] struct {
	Of     string      // whose status it is, for errors: "the backups"
	Folder string      // of the file in the Rumi home, for errors: "user_data/backup_status"
	Mode   fs.FileMode // of the file
}

// Write replaces the status in dir, which must exist. It does so atomically: a reader sees the old status or the new one.
func (f File[T]) Write(dir string, status T) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write the status of %s: %w", f.Of, err)
	}
	defer root.Close()
	data, err := json.Marshal(status)
	if err == nil {
		err = atomicfile.Write(root, name, append(data, '\n'), f.Mode, atomicfile.TempName("."+name+".new"))
	}
	if err != nil {
		return fmt.Errorf("write the status of %s: %w", f.Of, err)
	}
	return nil
}

// Read reads the status in dir. ok is false if there is none, or no dir: the process has never run.
func (f File[T]) Read(dir string) (status T, ok bool, err error) {
	file, err := open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return status, false, nil
	} else if err != nil {
		return status, false, fmt.Errorf("read the status of %s: %w", f.Of, err)
	}
	defer file.Close()
	if err := json.UnmarshalRead(io.LimitReader(file, maxFile), &status); err != nil {
		return status, false, fmt.Errorf("read the status of %s: %s/%s holds none", f.Of, f.Folder, name)
	}
	return status, true, nil
}

func open(dir string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(name)
}
