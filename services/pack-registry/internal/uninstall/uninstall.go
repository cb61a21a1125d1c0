// Package uninstall removes everything that the suite has of a pack, in an order in which an interruption leaves nothing that
// runs or is granted. Each owner removes its own part.
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

// timeout bounds a whole uninstall. Stopping the container takes the most of it.
const timeout = 50 * time.Second

// endTimeout bounds the last step, which is also taken if the caller has disconnected, or timeout has passed.
const endTimeout = 5 * time.Second

// Owners are the services that remove their part of a pack. All methods are idempotent, because an uninstall may be repeated.
// Approval is called twice: Retire closes the pack's gate and keeps it closed, whatever happens to the pack, until Remove.
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

// Result lists the steps that an uninstall has done. It goes over the wire as it is, also with a failure.
type Result = registry.UninstallResponse

// Uninstall removes a pack, in this order:
//
//   - Approval retires it: from then on nothing of it runs, and nothing can be approved or granted, also by a call that
//     crosses the uninstall.
//   - Broker, egress and pip remove its container, grants and environments, all at once.
//   - Its files are backed up and removed.
//   - The audit entry is written, and approval deletes the record.
//
// If a part fails, the later ones are not tried, and the pack stays retired. The error is then a fault that carries the Result:
// 503, or 409 where the operator has to repair something first. The call may be repeated until it succeeds, also if nothing of
// the pack is left except that it is retired. An unknown pack is 404 "Pack not found".
func (u *Uninstaller) Uninstall(ctx context.Context, id pack.ID) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	installed := u.ecosystem.Has(id)
	known, err := u.owners.Approval.Retire(ctx, string(id), installed)
	switch {
	case err != nil && !installed: // it isn't known whether there is such a pack
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
	// What was done is recorded even if the caller has disconnected.
	ctx = context.WithoutCancel(ctx)
	if len(problems) == 0 {
		u.step("files removed")
		// The entry comes first: after this last step a repetition of the call would not write it any more.
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

// removeRecord has approval delete the record of a pack of which nothing else is left.
func (u *Uninstaller) removeRecord(ctx context.Context, id pack.ID) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	_, err := u.owners.Approval.Remove(ctx, string(id))
	return err
}

// revoke has the container, the grants and the environments removed, all at once.
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

// removeFiles backs up and removes the pack's files. It warns of installed children, which can't run without their parent.
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

// auditEntry is the audit entry of an uninstall, complete or not.
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

// incompleteFault is the error of an uninstall that has to be repeated.
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
