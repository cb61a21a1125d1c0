package auditlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// Times of the status.
const (
	statusInterval = 5 * time.Second
	staleAfter     = 30 * time.Second // a sealer that has not written its status for so long doesn't work
)

// status is what the sealer tells its health check, through status.json.
type status struct {
	path       string // of the log's folder
	deviations int    // since the process has started
	written    time.Time
	told       int // deviations in what was written
}

// Status is the content of status.json.
type Status struct {
	At         time.Time `json:"at"`             // of the last pass
	Records    uint64    `json:"records"`        // of the log
	Deviations int       `json:"deviations"`     // changes of sealed lines that were noticed since the sealer has started
	Error      string    `json:"error,omitzero"` // why nothing is sealed, or not everything
}

// update writes the status, if the last one is old or no longer right.
func (st *status) update(s *Sealer, now time.Time) error {
	if now.Sub(st.written) < statusInterval && st.deviations == st.told {
		return nil
	}
	current := Status{At: now.UTC(), Records: s.seals.size(), Deviations: st.deviations}
	for name, text := range s.failed {
		current.Error = strings.TrimPrefix(name+": "+text, ": ")
	}
	return st.write(current, now)
}

// fail writes that nothing can be sealed. If that fails, too, the status grows old, which is as good.
func (st *status) fail(err error) {
	now := time.Now()
	_ = st.write(Status{At: now.UTC(), Deviations: st.deviations, Error: err.Error()}, now)
}

func (st *status) write(current Status, now time.Time) error {
	data, err := json.Marshal(current)
	if err == nil {
		err = atomicfile.WritePath(filepath.Join(st.path, statusFile), append(data, '\n'), 0o640, atomicfile.TempName("."+statusFile+".new"))
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	st.written, st.told = now, st.deviations
	return nil
}

// Health is nil if the sealer of a log works and has noticed nothing.
func Health(logDir string, now time.Time) error {
	data, err := os.ReadFile(filepath.Join(logDir, statusFile))
	if err != nil {
		return fmt.Errorf("the sealer has not begun: %w", err)
	}
	var st Status
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("read status of the sealer: %w", err)
	}
	switch age := now.Sub(st.At); {
	case age > staleAfter:
		return fmt.Errorf("the sealer has sealed nothing for %v", age.Round(time.Second))
	case st.Error != "":
		return errors.New(st.Error)
	case st.Deviations > 0:
		return fmt.Errorf("sealed lines of the audit log were changed (%d findings). Run: docker compose run --rm rumi audit verify", st.Deviations)
	}
	return nil
}

// readKey reads the signing key.
func readKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read signing key of the audit log: %w (run: docker compose up --detach)", err)
	}
	return strings.TrimSpace(string(data)), nil
}
