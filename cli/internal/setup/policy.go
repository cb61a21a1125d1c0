package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/policy"
)

// policyDir holds the copy of the operator's policy that services mount. (Were the file mounted by itself, the services would keep the old one
// when the operator replaces it.)
const policyDir = "policy"

// ensurePolicy makes the operator's policy, one without a ceiling, if there is neither it nor a copy from before. The file is the operator's, so
// that an editor can write it without root's rights in the services' folder. Without a copy that can stay in force, a policy that can't be read
// is an error: the suite must not start without the ceiling that its operator has written.
func (cfg Config) ensurePolicy(settings string, operatorUID, operatorGID int, log *slog.Logger) error {
	path, copied := filepath.Join(settings, policy.FileName), filepath.Join(settings, policyDir, policy.FileName)
	_, missing := os.Lstat(path)
	_, never := os.Lstat(copied)
	if errors.Is(missing, fs.ErrNotExist) && errors.Is(never, fs.ErrNotExist) {
		err := atomicfile.WritePath(path, policy.None().Document(), 0o640, atomicfile.NoReplace(), atomicfile.Owner(operatorUID, operatorGID))
		if err != nil {
			return fmt.Errorf("make policy: %w", err)
		}
		log.Info("policy made; it has no ceiling", "path", path)
	}
	err := cfg.sharePolicy(settings, log)
	if err == nil {
		return nil
	}
	if _, unusable := policy.Read(copied); unusable != nil {
		return err
	}
	log.Error("the policy can't be used", "error", err.Error())
	return nil
}

// sharePolicy copies the operator's policy into the folder that services mount. If it can't be used or was removed, the copy from before stays
// in force, and the reason is written beside it for the services' readiness to show; it is the error, too.
func (cfg Config) sharePolicy(settings string, log *slog.Logger) error {
	copied := filepath.Join(settings, policyDir, policy.FileName)
	problem := filepath.Join(settings, policyDir, policy.ProblemName)
	next, err := policy.Read(filepath.Join(settings, policy.FileName))
	if err != nil {
		err = explainPolicy(err)
		if noted := cfg.replaceChanged(problem, []byte(err.Error()+"\n")); noted != nil {
			return errors.Join(err, fmt.Errorf("note what is wrong with the policy: %w", noted))
		}
		return err
	}
	if old, err := os.ReadFile(copied); err != nil || !bytes.Equal(old, next.Document()) {
		if err := cfg.replaceFile(copied, next.Document()); err != nil {
			return fmt.Errorf("copy policy: %w", err)
		}
		log.Info("policy copied for the services", "path", copied, "digest", next.Digest())
	}
	if err := os.Remove(problem); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy policy: %w", err)
	}
	return nil
}

// explainPolicy says in one line what is wrong and what to do, by the path that the operator knows.
func explainPolicy(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf(`%s was removed; the policy from before stays in force. To lift it write {"version": 1} into the file`, policy.Path)
	}
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		err = of.Err // the path is this container's
	}
	return fmt.Errorf("%s can't be used: %w; the policy from before stays in force. Mend the file", policy.Path, err)
}

// replaceChanged is replaceFile for a file that is written again and again.
func (cfg Config) replaceChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return cfg.replaceFile(path, data)
}
