// Package uninstall takes everything of a pack out of the suite, each owner asked for its part.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
)

// timeout bounds a whole uninstall; stopping a container takes the most of it.
const timeout = 50 * time.Second

// ending bounds its last step, which is taken also where the caller has gone, or the time was over, meanwhile.
const endTimeout = 5 * time.Second

// Owners are asked to forget a pack. All of it is idempotent. Approval is asked twice: Retire closes the pack's gate and keeps it
// closed, whatever is done to the pack, until Remove.
type Owners struct {
	Approval interface {
		Retire(ctx context.Context, packID string, installed bool) (known bool, err error)
		Remove(ctx context.Context, packID string) (removed bool, err error)
	}
	Broker interface {
		Remove(ctx context.Context, packID string) (broker.Removal, error)
	}
	Egress interface {
		Remove(ctx context.Context, packID string) (revoked bool, err error)
	}
	Pip interface {
		Remove(ctx context.Context, packID string) (removed bool, err error)
	}
}

// Uninstaller uninstalls packs.
type Uninstaller struct {
	owners    Owners
	ecosystem *ecosystem.Ecosystem
	audit     *audit.Log
	log       *slog.Logger

	step func(string) // called between the steps of an uninstall; tests end the process there
}

// New makes an Uninstaller.
func New(owners Owners, eco *ecosystem.Ecosystem, auditLog *audit.Log, log *slog.Logger) *Uninstaller {
	return &Uninstaller{owners, eco, auditLog, log, func(string) {}}
}

// Result is what an uninstall did. It goes over the wire as it is, also with a failure.
type Result = registry.UninstallResponse

// Uninstall takes a pack out: first approval retires it, so that nothing of it runs, is approved or is granted anything meanwhile;
// then container, grants and environment go, then its files, of which a backup is kept; last approval forgets it. A part that fails
// keeps what would follow, and the whole may be repeated, also where there is nothing left of the pack but that it is retired. Then
// the error is a fault (503, or 409 where the operator has to mend something) that carries the Result. A pack that nobody knows is
// 404 "Pack not found".
func (u *Uninstaller) Uninstall(ctx context.Context, id pack.ID) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	installed := u.ecosystem.Has(id)
	known, err := u.owners.Approval.Retire(ctx, string(id), installed)
	switch {
	case err != nil && !installed: // nobody can say whether there is such a pack
		return Result{}, err
	case err == nil && !known:
		return Result{}, fault.PackNotFound()
	}
	u.step("retired")
	result := Result{PackID: string(id), Errors: []string{}}
	var problems []error
	failed := func(step string, err error) {
		u.log.WarnContext(ctx, "uninstall failed in part", "pack_id", id, "step", step, "error", err)
		problems = append(problems, err)
		result.Errors = append(result.Errors, step+": "+fault.Of(err).Message)
	}
	if err != nil {
		failed("approval_remove", err)
	} else {
		u.revoke(ctx, id, &result, failed)
	}
	if len(problems) == 0 {
		u.step("revoked")
		u.removeFiles(ctx, id, &result, failed)
	}
	// What was decided is written down even when the caller has gone.
	ctx = context.WithoutCancel(ctx)
	if len(problems) == 0 {
		u.step("files removed")
		// The entry comes first: after this last step nobody would come back to write it.
		result.Success, result.Steps.ApprovalRemove = true, true
		if err := u.audit.Write(ctx, auditEntry(result)); err != nil {
			return Result{}, err
		}
		u.step("audited")
		err := u.removeRecord(ctx, id)
		if err == nil {
			return result, nil
		}
		result.Success, result.Steps.ApprovalRemove = false, false
		failed("approval_remove", err)
	}
	if err := u.audit.Write(ctx, auditEntry(result)); err != nil {
		return Result{}, err
	}
	return Result{}, incompleteFault(result, problems)
}

// end has approval forget a pack of which nothing else is left.
func (u *Uninstaller) removeRecord(ctx context.Context, id pack.ID) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	_, err := u.owners.Approval.Remove(ctx, string(id))
	return err
}

// revoke has container, grants and environment removed, all at once.
func (u *Uninstaller) revoke(ctx context.Context, id pack.ID, result *Result, failed func(step string, err error)) {
	steps := &result.Steps
	var wait sync.WaitGroup
	var brokerErr, egressErr, pipErr error
	wait.Go(func() {
		var removal broker.Removal
		removal, brokerErr = u.owners.Broker.Remove(ctx, string(id))
		result.DataPath = removal.DataPath
	})
	wait.Go(func() { _, egressErr = u.owners.Egress.Remove(ctx, string(id)) })
	wait.Go(func() { _, pipErr = u.owners.Pip.Remove(ctx, string(id)) })
	wait.Wait()
	if brokerErr != nil {
		failed("container_remove", brokerErr)
	} else {
		steps.ContainerStop, steps.ContainerRemove = true, true
	}
	for _, err := range []error{egressErr, pipErr} {
		if err != nil {
			failed("privilege_revoke", err)
		}
	}
	steps.PrivilegeRevoke = brokerErr == nil && egressErr == nil && pipErr == nil
}

func (u *Uninstaller) removeFiles(ctx context.Context, id pack.ID, result *Result, failed func(step string, err error)) {
	removed, err := u.ecosystem.Remove(ctx, id)
	result.Backup, result.Warnings = removed.Backup, removed.Warnings
	if err != nil {
		failed("files_remove", err)
		return
	}
	result.Steps.FilesRemove = true
	for _, below := range u.ecosystem.Descendants(id) {
		result.Warnings = append(result.Warnings, fmt.Sprintf(
			"Pack '%s' can't run any more: '%s', which it lies below, is not installed. Uninstall it, too, or install '%s' again and approve it", below, id, id))
	}
}

func auditEntry(result Result) audit.Entry {
	e := audit.Entry{
		Category: audit.Approval, Action: "pack_uninstalled", Success: result.Success, OwnerPack: result.PackID,
		Details: map[string]any{"pack_id": result.PackID, "steps": result.Steps},
	}
	if result.Backup != "" {
		e.Details["backup_path"] = result.Backup
	}
	if result.DataPath != "" {
		e.Details["data_path"] = result.DataPath
	}
	if !result.Success {
		e.Severity, e.Error = audit.Warning, strings.Join(result.Errors, "; ")
	}
	return e
}

// incomplete is the answer to an uninstall that has to be repeated.
func incompleteFault(result Result, problems []error) error {
	kind := fault.KindUnavailable
	for _, err := range problems {
		if fault.Is(err, fault.KindConflict) {
			kind = fault.KindConflict
		}
	}
	return fault.New(kind, "Uninstall incomplete, repeat it: %s", strings.Join(result.Errors, "; ")).
		With("uninstall_incomplete").Carrying(result).Because(fmt.Errorf("uninstall: %w", errors.Join(problems...)))
}
