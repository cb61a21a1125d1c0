package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// uninstall stops a pack and uninstalls it. Then it checks that nothing of the pack is left: no answer of the API, no socket, no folder
// and no container.
func (r *runner) uninstall(ctx context.Context, pack string) error {
	if err := r.step(ctx, "stop "+pack, func(s *step) (string, error) {
		a, err := s.post("/api/containers/"+pack+"/stop", nil, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "system", "container_stopped", true)
		c, err := r.container(ctx, pack)
		if err == nil && c.State.Status == "running" {
			return "", errors.New("its container is still running")
		}
		return "stopped", nil
	}); err != nil {
		return err
	}
	return r.step(ctx, "uninstall "+pack, func(s *step) (string, error) {
		var removed struct {
			Steps  map[string]bool `json:"steps"`
			Errors []string        `json:"errors"`
		}
		a, err := s.remove("/api/packs/"+pack, &removed)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "approval", "pack_uninstalled", true)
		if len(removed.Errors) > 0 || !removed.Steps["approval_remove"] || !removed.Steps["files_remove"] {
			return "", fmt.Errorf("answered %v", a)
		}
		status, err := r.api.Get(ctx, "/api/packs/"+pack+"/status")
		if err := refused(status, err, 404, "Pack not found"); err != nil {
			return "", err
		}
		if _, err := s.waitUntil(socketWait, "its sockets are gone", func() (bool, error) { return r.sockets(pack) == 0, nil }); err != nil {
			return "", err
		}
		switch _, err := os.Lstat(filepath.Join(r.cfg.Home, "ecosystem", pack)); {
		case err == nil:
			return "", fmt.Errorf("ecosystem/%s is still there", pack)
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
		left, err := r.docker.Labelled(ctx, "io.rumi.instance="+r.instance, "io.rumi.pack_id="+pack)
		if err != nil {
			return "", err
		}
		if len(left) > 0 {
			return "", fmt.Errorf("containers %v are still there", left)
		}
		return fmt.Sprintf("%s; no files, sockets or containers are left", a.Data), nil
	})
}

// checkNoLeak deletes the secret, and checks that no file of the audit log contains its value or the API token.
func (r *runner) checkNoLeak(ctx context.Context, key string) error {
	return r.step(ctx, "delete the secret; no audit file contains its value", func(s *step) (string, error) {
		a, err := s.post("/api/secrets/delete", map[string]any{"key": secret}, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "system", "secret_deleted", true)
		files, err := filepath.Glob(filepath.Join(r.auditDir(), "*.jsonl"))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			if bytes.Contains(data, []byte(key)) || bytes.Contains(data, []byte(r.api.Token)) {
				return "", fmt.Errorf("%s holds the secret or the token", file)
			}
		}
		return fmt.Sprintf("%d audit files hold neither the secret nor the API token", len(files)), nil
	})
}
