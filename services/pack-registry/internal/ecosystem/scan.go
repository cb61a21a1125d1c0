package ecosystem

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/rumi-ai/rumi/libs/pack"
)

// ScanResult is the result of a scan.
type ScanResult struct {
	PackIDs  []string
	Broken   []Refusal // packs of which something can't be read, and folders that can't be read and may hold packs
	Warnings []string
}

// Scan lists the installed packs, and everything that the operator should know about the ecosystem folder.
func (e *Ecosystem) Scan() ScanResult {
	all, unread := e.packs.Installed(e.root)
	found := ScanResult{PackIDs: make([]string, 0, len(all))}
	for _, u := range unread {
		found.Broken = append(found.Broken, Refusal{path.Base(path.Join("ecosystem", u.Path)), e.operatorMessage(u.Path, u.Err)})
	}
	for _, p := range all {
		for _, warning := range p.Warnings {
			found.Warnings = append(found.Warnings, fmt.Sprintf("%s: %s", p.ID, warning))
		}
		if p.Err != nil {
			found.Broken = append(found.Broken, Refusal{string(p.ID), e.operatorMessage(p.Dir, p.Err)})
			continue
		}
		found.PackIDs = append(found.PackIDs, string(p.ID))
		for _, warning := range e.contents(p) {
			found.Warnings = append(found.Warnings, fmt.Sprintf("%s: %s", p.ID, warning))
		}
	}
	unreadable, warnings := e.missingRights(all)
	found.Broken, found.Warnings = append(found.Broken, unreadable...), append(found.Warnings, warnings...)
	found.Warnings = append(found.Warnings, e.ignored()...)
	if err := pack.Writable(e.root, "."); err != nil {
		found.Warnings = append(found.Warnings, "Packs can't be installed or removed: "+e.operatorMessage(".", err))
	}
	return found
}

// DeclarationWarnings are the warnings about declarations of installed packs that most likely don't do what their authors
// meant. A pack that can't be read has none; Scan reports it.
func (e *Ecosystem) DeclarationWarnings(packIDs ...string) (warnings []string) {
	for _, id := range packIDs {
		found, err := e.packs.Find(e.root, pack.ID(id))
		if err != nil || found.Err != nil {
			continue
		}
		for _, warning := range e.contents(found) {
			warnings = append(warnings, fmt.Sprintf("%s: %s", id, warning))
		}
	}
	return warnings
}

// contents are the warnings about the descriptor and the files of a pack.
func (e *Ecosystem) contents(p pack.Found) []string {
	root, err := e.root.OpenRoot(p.Dir)
	if err != nil {
		return nil // removed or changed since it was found; the next scan reports that
	}
	defer root.Close()
	return pack.Warnings(p.Descriptor, root.FS())
}

// ignored are the warnings about entries of the ecosystem folder that are no packs.
func (e *Ecosystem) ignored() (warnings []string) {
	all, more := pack.ListIgnored(e.root)
	for _, one := range all {
		warnings = append(warnings, fmt.Sprintf("%s %s", path.Join("ecosystem", one.Path), one.Reason))
	}
	if more > 0 {
		warnings = append(warnings, fmt.Sprintf("ecosystem/ has %d more entries that are no packs", more))
	}
	return warnings
}

// RemoveLeftovers ends interrupted operations, and removes what they left; the warnings are for the operator. While another
// change is under way it does nothing, because hidden folders are in use then.
func (e *Ecosystem) RemoveLeftovers(ctx context.Context) (warnings []string) {
	release, err := e.acquire(ctx, 0)
	if err != nil {
		return nil
	}
	defer release()
	blocked, err := e.recoverOperations(ctx)
	if err != nil {
		e.log.WarnContext(ctx, "could not finish or undo interrupted installations", "error", err)
		return []string{"The journal of installations could not be read: " + message(err)}
	}
	for _, id := range slices.Sorted(maps.Keys(blocked)) {
		warnings = append(warnings, fmt.Sprintf("%s: %s", id, blocked[id]))
	}
	if err := e.clearUnfinishedBackups(); err != nil {
		warnings = append(warnings, "What was left of backups could not be removed: "+message(err))
	}
	return append(warnings, e.clearLeftovers(ctx)...)
}
