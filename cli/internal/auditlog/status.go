package auditlog

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/sealstatus"
)

// statusInterval is the time between two writings of an unchanged status.
const statusInterval = 5 * time.Second

// status is what the sealer tells its health check and the gateway.
type status struct {
	dir     string
	changes int    // since the process has started
	last    string // the last one
	written time.Time
	told    int // changes in what was written
}

// update writes the status, if the last one is old or no longer right.
func (st *status) update(s *Sealer, now time.Time) error {
	if now.Sub(st.written) < statusInterval && st.changes == st.told {
		return nil
	}
	current := sealstatus.Status{At: now.UTC(), Records: s.seals.size()}
	for name, text := range s.failed {
		current.Error = strings.TrimPrefix(name+": "+text, ": ")
	}
	return st.write(current, now)
}

// fail writes that nothing can be sealed. If that fails, too, the status grows old, which is as good.
func (st *status) fail(err error) {
	now := time.Now()
	_ = st.write(sealstatus.Status{At: now.UTC(), Error: err.Error()}, now)
}

func (st *status) write(current sealstatus.Status, now time.Time) error {
	current.Changes, current.Last = st.changes, st.last
	if err := sealstatus.File.Write(st.dir, current); err != nil {
		return err
	}
	st.written, st.told = now, st.changes
	return nil
}

// Health is nil if the sealer whose status is in a folder works and has noticed nothing.
func Health(dir string, now time.Time) error {
	s, ok, err := sealstatus.File.Read(dir)
	switch {
	case err != nil:
		return err
	case !ok:
		return errors.New("the sealer has not begun")
	}
	if state, detail := s.Verdict(now); state != sealstatus.OK {
		return fmt.Errorf("%s: %s", state, detail)
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
