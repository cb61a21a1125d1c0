package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// sealsDir is the folder of the audit log's seals in the home.
const sealsDir = "user_data/audit_log"

// ensureAuditKey makes the key that signs the audit log's seals, in a folder that the sealer alone mounts, and beside that folder the public
// key with which the operator verifies them. In a home with seals a missing key isn't made anew: the seals would be of two keys, and
// the operator may have a backup. This is logged, not an error, so that the services start nevertheless.
func (cfg Config) ensureAuditKey(settings, home string, operatorGID int, log *slog.Logger) error {
	path := filepath.Join(settings, auditlog.KeyDir, auditlog.KeyFile)
	private, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(cfg.Home, sealsDir, auditlog.CheckpointFile)); err == nil {
			log.Error("the key that signs the audit log's seals is missing; put it back from a backup, then run: docker compose up --detach. "+
				"If there is no backup, begin a new log (mv user_data/audit_log user_data/audit_log.old), and run the same", "path", path)
			return nil
		}
		return cfg.makeAuditKey(path, settings, home, operatorGID, log)
	} else if err != nil {
		return fmt.Errorf("read key of the audit log: %w", err)
	}
	public, err := auditlog.PublicKey(string(private))
	if err != nil {
		log.Error("the audit log can't be sealed; put the key back from a backup, then run: docker compose up --detach", "path", path, "error", err.Error())
		return nil
	}
	return cfg.publishAuditKey(settings, public, operatorGID, log)
}

// makeAuditKey makes a new key.
func (cfg Config) makeAuditKey(path, settings, home string, operatorGID int, log *slog.Logger) error {
	private, public, err := auditlog.NewKey(home)
	if err != nil {
		return fmt.Errorf("make key of the audit log: %w", err)
	}
	if err := atomicfile.WritePath(path, []byte(private+"\n"), 0o600, atomicfile.NoReplace(), atomicfile.Owner(cfg.UID, cfg.GID)); err != nil {
		return fmt.Errorf("make key of the audit log: %w", err)
	}
	log.Info("key of the audit log's seals made; keep its public key on another machine", "public_key", public)
	return cfg.publishAuditKey(settings, public, operatorGID, log)
}

// publishAuditKey writes the public key, unless it is there.
func (cfg Config) publishAuditKey(settings, public string, operatorGID int, log *slog.Logger) error {
	path := filepath.Join(settings, auditlog.PublicKeyFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == public+"\n" {
		return nil
	} else if err == nil {
		log.Warn("the public key of the audit log's seals is another one now", "path", path, "public_key", public)
	}
	if err := atomicfile.WritePath(path, []byte(public+"\n"), 0o640, atomicfile.Owner(cfg.UID, operatorGID)); err != nil {
		return fmt.Errorf("write public key of the audit log: %w", err)
	}
	return nil
}
