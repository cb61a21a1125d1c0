package ecosystem

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Found is what a scan finds.
type Found struct {
	PackIDs  []string
	Broken   []Refusal // folders that would be packs if their descriptors could be read
	Warnings []string
}

// Scan lists the installed packs and whatever the operator should know about the folder they lie in.
func (e *Ecosystem) Scan() (Found, error) {
	all, err := e.packs.Installed(e.root)
	if err != nil {
		return Found{}, err
	}
	found := Found{PackIDs: make([]string, 0, len(all))}
	for _, p := range all {
		for _, warning := range p.Warnings {
			found.Warnings = append(found.Warnings, fmt.Sprintf("%s: %s", p.ID, warning))
		}
		if p.Err != nil {
			found.Broken = append(found.Broken, Refusal{string(p.ID), told(p.Dir, p.Err)})
			continue
		}
		found.PackIDs = append(found.PackIDs, string(p.ID))
	}
	if err := e.writable(); err != nil {
		found.Warnings = append(found.Warnings, "Packs can't be installed or removed. "+mendCommand("."))
	}
	return found, nil
}

// Tidy ends what was interrupted and clears away what it has left; warnings are for the operator. While another change is under way
// it does nothing: the hidden folders are in use, and a later call sees what is left over.
func (e *Ecosystem) Tidy(ctx context.Context) (warnings []string, err error) {
	release, err := e.acquire(ctx, time.Millisecond)
	if err != nil {
		return nil, nil
	}
	defer release()
	if err := e.endOperations(ctx); err != nil {
		// The folders that it has prepared are still needed.
		e.log.WarnContext(ctx, "could not end an interrupted installation", "error", err)
		return []string{"An interrupted installation could not be ended: " + message(err)}, nil
	}
	return e.clearLeftovers()
}

// writable says whether packs can be put into the ecosystem folder and taken out.
func (e *Ecosystem) writable() error {
	dir, err := e.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Faccessat(int(dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "access", Path: dir.Name(), Err: err}
	}
	return nil
}
