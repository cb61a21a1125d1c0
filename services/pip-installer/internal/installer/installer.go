package installer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/environment"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// Config has the parts that an Installer uses.
type Config struct {
	DB           *store.DB
	Registry     *registry.Client
	Gates        *gate.View
	Approved     *tree.Cache // approved trees, fetched from approval
	Environments *environment.Store
	Builder      Builder
	Indexes      Indexes
	Policy       policy.Source
	Audit        *audit.Log
	Log          *slog.Logger
	Metrics      prometheus.Registerer
	Changed      func(ctx context.Context) // the counts of candidates have changed
	Approvals    confirm.Approvals         // how many persons an approval takes; the zero value is one
}

// Builder makes environments; *build.Builder does it in containers.
type Builder interface {
	Check(ctx context.Context) error
	Build(ctx context.Context, req build.Request) (build.Result, error)
}

// Installer is the service. It is safe for concurrent use.
type Installer struct {
	*Candidates
	cfg      Config
	installs *outcome.Operations

	// sweepLock is held for reading from before an environment is stored until its candidate is recorded as installed, and for writing by
	// Sweep: otherwise Sweep could remove an environment that no candidate has yet.
	sweepLock sync.RWMutex
}

// New makes an Installer, and registers its metrics.
func New(cfg Config) *Installer {
	i := &Installer{cfg: cfg, installs: newInstalls(cfg.Metrics)}
	i.Candidates = candidate.New(cfg.DB, candidate.Config[Lock]{Record: i.record, Changed: cfg.Changed, Approvals: cfg.Approvals})
	cfg.Metrics.MustRegister(i.Gauge())
	return i
}

// ScanLocks reads the locks of all packs and records them, for an operator who asked for it.
func (i *Installer) ScanLocks(ctx context.Context) (candidate.ScanResult, error) {
	found, problems, err := i.findLocks(ctx)
	if err != nil {
		return candidate.ScanResult{}, err
	}
	return i.Scan(ctx, found, problems)
}

// BackgroundScanLocks is ScanLocks without an operator who asked for it: see candidate.Candidates.BackgroundScan.
func (i *Installer) BackgroundScanLocks(ctx context.Context) error {
	found, problems, err := i.findLocks(ctx)
	if err != nil {
		return err
	}
	return i.BackgroundScan(ctx, found, problems)
}

// findLocks reads the locks of all packs. A lock that can't be read or parsed is among the problems.
func (i *Installer) findLocks(ctx context.Context) (found []candidate.Found[Lock], problems []candidate.ScanError, err error) {
	packs, err := i.cfg.Registry.Select(ctx, lockPaths...)
	if err != nil {
		return nil, nil, fmt.Errorf("scan locks: %w", err)
	}
	for _, p := range packs {
		if p.Error != "" {
			problems = append(problems, candidate.ScanError{PackID: p.PackID, Error: p.Error})
		}
		for _, file := range p.Files {
			problem := candidate.ScanError{PackID: p.PackID, Path: file.Path, Error: file.Error}
			if problem.Error == "" {
				requirements, err := lock.Parse(file.Content)
				if err == nil {
					key, digest := keyOf(p.PackID, file.Path, file.Content)
					found = append(found, candidate.Found[Lock]{Key: key, PackID: p.PackID,
						Payload: Lock{Relpath: file.Path, SHA256: digest, Requirements: requirements}})
					continue
				}
				problem.Error = "Invalid requirements.lock: " + err.Error()
			}
			problems = append(problems, problem)
		}
	}
	return found, problems, nil
}

// Decision has the settings that an operator adds to an approval.
type Decision struct {
	AllowSdist bool   // build from source where there is no wheel: runs code of the packages in the builder
	IndexURL   string // "" for the default
	Notes      string
}

// Approve installs what a lock lists, and makes it the environment of its pack. The lock is read three times, and must be the
// same: as it was scanned (what the operator saw), as it is now, and as it is in the tree that was approved for the pack. Only
// the last one is acted on.
//
// Where an approval takes two persons, the first one's call records a request and builds nothing: then the item that is returned has an open
// request.
func (i *Installer) Approve(ctx context.Context, key string, decision Decision) (Item, error) {
	index, err := i.cfg.Indexes.Choose(decision.IndexURL)
	if err != nil {
		return Item{}, err
	}
	if len(decision.Notes) > candidate.MaxText {
		return Item{}, fault.TooLong("notes", candidate.MaxText)
	}
	locked := false
	defer func() {
		if locked {
			i.sweepLock.RUnlock()
		}
	}()
	item, err := i.Candidates.Approve(ctx, key, candidate.Approval[Lock]{
		Options: decision.options(index), Notes: decision.Notes,
		Check: func(ctx context.Context, item *Item) (digest string, err error) {
			if _, err := i.prepare(ctx, item, decision, index); err != nil {
				return "", err
			}
			return "sha256:" + item.Payload.SHA256, i.cfg.Builder.Check(ctx)
		},
		Install: func(ctx context.Context, item *Item) (err error) {
			defer func(began time.Time) { i.installs.Done(ctx, began, installResult(err)) }(time.Now())
			requirements, err := i.prepare(ctx, item, decision, index)
			if err != nil {
				return err
			}
			built, err := i.build(ctx, item, requirements)
			if err != nil {
				return err
			}
			i.sweepLock.RLock()
			locked = true
			return i.addEnvironment(ctx, item, built, requirements)
		},
	})
	return item, confirm.AuditRefusal(ctx, i.cfg.Audit, item.PackID, map[string]any{"candidate_key": key}, err)
}

// options are what two persons must choose alike, by the fields of the request; index is the one that was chosen, "" for pip's default.
func (d Decision) options(index string) map[string]string {
	options := map[string]string{"allow_sdist": strconv.FormatBool(d.AllowSdist)}
	if index != "" {
		options["index_url"] = index
	}
	return options
}

// prepare puts the decision into the item's payload, and reads what the lock lists if the policy allows the decision and the lock is the same
// in all three places.
func (i *Installer) prepare(ctx context.Context, item *Item, decision Decision, index string) ([]lock.Requirement, error) {
	item.Payload.AllowSdist, item.Payload.IndexURL, item.Payload.Notes = decision.AllowSdist, index, decision.Notes
	if item.Request != nil {
		item.Payload.Notes = item.Request.Notes
	}
	item.Payload.Role = origin.Of(ctx).Role
	if err := i.withinPolicy(ctx, item); err != nil {
		return nil, err
	}
	if err := i.checkUnchanged(ctx, item); err != nil {
		return nil, err
	}
	return i.approvedLock(ctx, item)
}

// Violations are the rules of the policy that the approval of a lock breaks; none for a lock that isn't installed. What is installed stays: its
// packages were built, and their code ran in the builder, when it was approved.
func (i *Installer) Violations(p *policy.Policy, item *Item) policy.Violations {
	if item.State != candidate.Installed {
		return nil
	}
	return p.Lock(item.Payload.Role, item.Payload.AllowSdist)
}

// Findings are the installed locks whose approval a policy doesn't cover.
func (i *Installer) Findings(ctx context.Context, p *policy.Policy) (all []policy.Finding, err error) {
	items, err := i.List(ctx, candidate.Installed)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		all = append(all, i.Violations(p, &item).Findings(policy.Finding{
			Kind: policy.Lock, PackID: item.PackID, Name: item.Key, GrantedBy: item.Actor, Role: string(item.Payload.Role),
		})...)
	}
	return all, nil
}

// withinPolicy is nil for an approval that the policy allows. Otherwise the refusal is in the audit log, and is the error: a denied fault.
func (i *Installer) withinPolicy(ctx context.Context, item *Item) error {
	broken := i.cfg.Policy.Current().Lock(item.Payload.Role, item.Payload.AllowSdist)
	if len(broken) == 0 {
		return nil
	}
	refusal := broken.Err()
	err := i.cfg.Audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Warning, Action: "policy_refused", OwnerPack: item.PackID, RejectionReason: refusal.Error(),
		Details: map[string]any{"permission_type": "pip", "rules": broken.Rules(), "candidate_key": item.Key},
	})
	if err != nil {
		return err
	}
	return refusal
}

// checkUnchanged checks that the lock in the pack's folder is still the one that was scanned.
func (i *Installer) checkUnchanged(ctx context.Context, item *Item) error {
	packs, err := i.cfg.Registry.Select(ctx, item.Payload.Relpath)
	if err != nil {
		return fmt.Errorf("read lock: %w", err)
	}
	for _, p := range packs {
		for _, file := range p.Files {
			if p.PackID == item.PackID && file.Path == item.Payload.Relpath && file.Error == "" {
				if key, _ := keyOf(p.PackID, file.Path, file.Content); key == item.Key {
					return nil
				}
			}
		}
	}
	return i.mismatch(ctx, item)
}

func (i *Installer) mismatch(ctx context.Context, item *Item) error {
	refusal := fault.ContentChanged(filepath.Base(item.Payload.Relpath), "/api/pip/candidates/scan")
	err := i.cfg.Audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Error, Action: "hash_mismatch", OwnerPack: item.PackID,
		Details: map[string]any{"candidate_key": item.Key, "relpath": item.Payload.Relpath}, RejectionReason: refusal.Message,
	})
	if err != nil {
		return err
	}
	return candidate.InstallFailed(refusal)
}

// approvedLock reads the lock from the approved tree, which is all that may be acted on. It fails where the pack's gate is
// closed.
func (i *Installer) approvedLock(ctx context.Context, item *Item) ([]lock.Requirement, error) {
	state, known := i.cfg.Gates.GetLatest(ctx, item.PackID)
	if err := gate.Check(item.PackID, state, known, i.cfg.Gates.Fresh()); fault.Is(err, fault.KindUnavailable) {
		return nil, err
	} else if err != nil {
		refusal := fault.Of(err)
		err := i.cfg.Audit.Write(ctx, audit.Entry{
			Category: audit.Security, Severity: audit.Warning, Action: "pip_denied", OwnerPack: item.PackID,
			Details: map[string]any{"candidate_key": item.Key}, RejectionReason: refusal.Message,
		})
		return nil, errors.Join(err, refusal)
	}
	dir, err := i.cfg.Approved.Get(ctx, state.Digest)
	if err != nil {
		return nil, fmt.Errorf("read approved lock: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read approved lock: %w", err)
	}
	defer root.Close()
	content, err := root.ReadFile(item.Payload.Relpath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, i.mismatch(ctx, item)
	}
	if err != nil {
		return nil, fmt.Errorf("read approved lock: %w", err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != item.Payload.SHA256 {
		return nil, i.mismatch(ctx, item)
	}
	requirements, err := lock.Parse(content)
	if err != nil {
		return nil, candidate.InstallFailed(fault.Conflict("Invalid requirements.lock: %s", err).With("invalid_lock"))
	}
	return requirements, nil
}

// build installs the requirements into a work folder, which the caller removes.
func (i *Installer) build(ctx context.Context, item *Item, requirements []lock.Requirement) (build.Result, error) {
	if err := i.cfg.Builder.Check(ctx); err != nil {
		return build.Result{}, err
	}
	approved := i.entry(audit.Info, "pip_approved", item)
	var names []string
	for _, r := range requirements {
		names = append(names, r.String())
	}
	approved.Details["requirements"] = names
	approved.Details = item.Request.Details(approved.Details)
	if err := i.cfg.Audit.Write(ctx, approved); err != nil {
		return build.Result{}, err
	}
	built, err := i.cfg.Builder.Build(ctx, build.Request{
		PackID: item.PackID, Requirements: requirements, IndexURL: item.Payload.IndexURL, AllowSdist: item.Payload.AllowSdist,
	})
	if err == nil {
		return built, nil
	}
	err = buildFault(err)
	if candidate.IsInstallFailed(err) {
		return built, err // record writes the entry
	}
	failed := i.entry(audit.Error, "pip_install_failed", item)
	failed.Success, failed.Error = false, fault.Of(err).Message
	return built, errors.Join(err, i.cfg.Audit.Write(context.WithoutCancel(ctx), failed))
}

// addEnvironment checks what was built and stores it as an environment.
func (i *Installer) addEnvironment(ctx context.Context, item *Item, built build.Result, requirements []lock.Requirement) error {
	env, err := i.cfg.Environments.Add(ctx, built.Dir, requirements)
	if removeErr := built.Remove(); removeErr != nil {
		i.cfg.Log.ErrorContext(ctx, "could not remove a work folder", "error", removeErr) // the builder's Sweep tries again
	}
	if refused, ok := errors.AsType[*environment.RefusedError](err); ok {
		return candidate.InstallFailed(fault.Conflict("Installed packages were refused: %s", refused.Reason).With("environment_refused"))
	}
	if err != nil {
		return err
	}
	item.Payload.Environment = env
	return nil
}

// buildFault is what a failed build means to the caller.
func buildFault(err error) error {
	if refused, ok := errors.AsType[*build.AddressError](err); ok {
		return fault.Invalid("index_url is not allowed: host '%s' has an internal address", refused.Host).With("index_not_allowed")
	}
	failed, ok := errors.AsType[*build.Failure](err)
	if !ok {
		return err
	}
	if failed.Unreachable {
		return candidate.InstallFailed(fault.Unavailable("Package index can't be reached: %s", failed.Reason).With("index_unreachable").Because(err))
	}
	return candidate.InstallFailed(fault.Conflict("Installation failed: %s", failed.Reason).With("install_failed").Because(err))
}

// record writes the audit entry of a decision.
func (i *Installer) record(ctx context.Context, change candidate.Change[Lock]) error {
	item := change.Item
	var entry audit.Entry
	switch {
	case change.Verb == candidate.Ask:
		return i.cfg.Audit.Write(ctx, i.requested(&item))
	case change.Verb == candidate.Lapse:
		entry = i.entry(audit.Info, "pip_approval_lapsed", &item)
	case change.Verb == candidate.Install:
		entry = i.entry(audit.Info, "pip_install_completed", &item)
		entry.Details["digest"], entry.Details["packages"] = item.Payload.Environment.Digest, item.Payload.Environment.Packages
	case change.Verb == candidate.Fail:
		entry = i.entry(audit.Error, "pip_install_failed", &item)
		entry.Success, entry.Error = false, item.LastError
	case change.Verb == candidate.Unblock:
		entry = i.entry(audit.Info, "pip_unblocked", &item)
		entry.Details["reason"] = item.Reason
	case item.State == candidate.Blocked:
		entry = i.entry(audit.Warning, "pip_blocked", &item)
		entry.RejectionReason = item.Reason
	default:
		entry = i.entry(audit.Info, "pip_rejected", &item)
		entry.RejectionReason = item.Reason
	}
	entry.Details = change.Request.Details(entry.Details)
	return i.cfg.Audit.Write(ctx, entry)
}

// requested is the entry of a request that another person has to confirm: what the payload says of options is of an earlier approval.
func (i *Installer) requested(item *Item) audit.Entry {
	entry := i.entry(audit.Info, "pip_approval_requested", item)
	delete(entry.Details, "index_url")
	for name, value := range item.Request.Options {
		entry.Details[name] = value
	}
	entry.Details["allow_sdist"] = item.Request.Options["allow_sdist"] == "true"
	entry.Details["notes"], entry.Details["digest"], entry.Details["expires_at"] = item.Request.Notes, item.Request.Digest, item.Request.ExpiresAt()
	return entry
}

func (i *Installer) entry(severity audit.Severity, action string, item *Item) audit.Entry {
	return audit.Entry{
		Category: audit.System, Severity: severity, Action: action, Success: true, OwnerPack: item.PackID,
		Details: map[string]any{
			"candidate_key": item.Key, "relpath": item.Payload.Relpath, "sha256": item.Payload.SHA256, "allow_sdist": item.Payload.AllowSdist,
			"index_url": item.Payload.IndexURL, "notes": item.Payload.Notes, "reject_count": item.RejectCount,
		},
	}
}
