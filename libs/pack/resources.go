package pack

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Resources are the memory, processors and processes that a pack asks for. A field that is 0 asks for nothing. The operator's ceiling bounds what it gets.
type Resources struct {
	MemoryMB int64   `json:"memory_mb,omitzero"` // MiB, /tmp included
	CPUs     float64 `json:"cpus,omitzero"`      // processors
	PIDs     int64   `json:"pids,omitzero"`      // processes and threads
}

// UnmarshalJSONFrom reads an object without unknown members: a misspelt limit must not look like one that is kept.
func (r *Resources) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	type plain Resources
	return json.UnmarshalDecode(dec, (*plain)(r), json.RejectUnknownMembers(true))
}

func (r Resources) check() error {
	for _, field := range []struct {
		name                 string
		value, least, utmost float64
	}{
		{"resources.memory_mb", float64(r.MemoryMB), 16, 1 << 20},
		{"resources.cpus", r.CPUs, 0.01, 1024},
		{"resources.pids", float64(r.PIDs), 8, 1 << 20},
	} {
		if field.value != 0 && (field.value < field.least || field.value > field.utmost) {
			return fmt.Errorf("%q must be from %g to %g", field.name, field.least, field.utmost)
		}
	}
	return nil
}

// Restart says when a pack's container that ended by itself is started again.
type Restart string

// The policies. None given is RestartNo.
const (
	RestartNo        Restart = "no"
	RestartOnFailure Restart = "on-failure" // where it ended with another status than 0, or for want of memory
	RestartAlways    Restart = "always"
)

func (r Restart) check() error {
	switch r {
	case "", RestartNo, RestartOnFailure, RestartAlways:
		return nil
	}
	return errors.New(`"restart" must be "no", "on-failure" or "always"`)
}
