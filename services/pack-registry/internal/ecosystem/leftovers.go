package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// leftover is a hidden folder in the ecosystem folder that could not be deleted.
type leftover struct {
	path string // relative to the ecosystem folder
	err  error
}

// maxLeftovers is how many leftovers a warning names.
const maxLeftovers = 20

// removeHidden deletes a hidden folder, if there is one. It returns what could not be deleted completely.
func (e *Ecosystem) removeHidden(hidden string) []leftover {
	err := folder.Remove(e.root, hidden)
	if err == nil {
		return nil
	}
	e.log.Warn("could not remove a folder that an installation left over", "folder", hidden, "error", err)
	return []leftover{{hidden, err}}
}

// listHidden lists the hidden folders that changes have left in the ecosystem folder, except those of operations in the
// journal, which still need them.
func (e *Ecosystem) listHidden(ctx context.Context) (all []string) {
	operations, err := e.journal.Operations(ctx)
	if err != nil {
		e.log.WarnContext(ctx, "could not read the journal to see which hidden folders are in use", "error", err)
		return nil
	}
	for _, dir := range []string{".", pack.LegacyDir} {
		names, err := folder.Names(e.root, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			e.log.WarnContext(ctx, "could not list the hidden folders in ecosystem/", "folder", path.Join("ecosystem", dir), "error", err)
		}
		for _, name := range names {
			id, ok := strings.CutPrefix(name, newPrefix)
			if !ok {
				id, ok = strings.CutPrefix(name, oldPrefix)
			}
			for _, op := range operations {
				ok = ok && !strings.HasPrefix(id, op.ID)
			}
			if ok {
				all = append(all, path.Join(dir, name))
			}
		}
	}
	return all
}

// clearLeftovers deletes the hidden folders that no operation needs. The caller holds the lock. The warning names those that
// stay.
func (e *Ecosystem) clearLeftovers(ctx context.Context) (warnings []string) {
	var left []leftover
	for _, hidden := range e.listHidden(ctx) {
		left = append(left, e.removeHidden(hidden)...)
	}
	return e.leftoverWarning(left)
}

// leftoverWarning is one warning about everything that could not be deleted, with the command that deletes it.
func (e *Ecosystem) leftoverWarning(left []leftover) []string {
	if len(left) == 0 {
		return nil
	}
	first := left[0].err
	for _, one := range left { // what needs more than rm goes first
		if !errors.Is(one.err, fs.ErrPermission) {
			first = one.err
			break
		}
	}
	var commands []string
	for _, one := range left[:min(len(left), maxLeftovers)] {
		commands = append(commands, diskusage.RemoveCommand(path.Join("ecosystem", one.path)))
	}
	warning := fmt.Sprintf("What is left of a pack could not be removed (%v). Run in the Rumi home: %s (with sudo if that is refused)", withoutPath(first), strings.Join(commands, "; "))
	if more := len(left) - maxLeftovers; more > 0 {
		warning += fmt.Sprintf("; then scan again, there are %d more", more)
	}
	if errors.Is(first, unix.EBUSY) || errors.Is(first, unix.ENOTCONN) || errors.Is(first, unix.ESTALE) {
		warning += ". Unmount first what is mounted in it"
	}
	return []string{warning}
}

// withoutPath is the reason of a system call's error, without the path: the message has it already.
func withoutPath(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}

// operatorMessage is the text for the operator of an error about a folder of the ecosystem.
func (e *Ecosystem) operatorMessage(dir string, err error) string {
	err = pack.Advise(e.root, dir, err)
	if reason := message(err); reason != internal {
		return reason
	}
	return err.Error()
}
