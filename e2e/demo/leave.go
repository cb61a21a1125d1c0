package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// escape starts the hostile pack, which tells how each of its attempts went.
func (w *walk) escape(ctx context.Context) error {
	if err := w.start(ctx, hostile, "start it"); err != nil {
		return err
	}
	if err := w.step(ctx, "it tries every way out it knows", func(s *step) (string, error) {
		lines, err := w.logs(ctx, hostile, func(line string) bool { return strings.HasPrefix(line, "RESULT: ") })
		if err != nil {
			return "", err
		}
		s.began = w.began
		s.leavesOf("pack:"+hostile, hostile, "security", "network_denied", false)
		s.leavesOf("pack:"+hostile, hostile, "security", "capability_denied", false)
		attempts := 0
		for _, line := range lines {
			if attempt, ok := strings.CutPrefix(line, "ATTEMPT "); ok {
				attempts++
				if !strings.Contains(attempt, ": blocked") {
					return "", errors.New(line)
				}
			}
		}
		if want := fmt.Sprintf("RESULT: %d attempts, 0 escaped", attempts); attempts == 0 || lines[len(lines)-1] != want {
			return "", fmt.Errorf("it ended with %q, want %q", lines[len(lines)-1], want)
		}
		return strings.Join(lines, "\n"), nil
	}); err != nil {
		return err
	}
	return w.confined(ctx, hostile)
}

// leave stops a pack and uninstalls it.
func (w *walk) leave(ctx context.Context, pack string) error {
	if err := w.step(ctx, "stop "+pack, func(s *step) (string, error) {
		a, err := s.post("/api/containers/"+pack+"/stop", nil, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "system", "container_stopped", true)
		c, err := w.container(ctx, pack)
		if err == nil && c.State.Status == "running" {
			return "", errors.New("its container is still running")
		}
		return "stopped", nil
	}); err != nil {
		return err
	}
	return w.step(ctx, "uninstall "+pack, func(s *step) (string, error) {
		var removed struct {
			Steps  map[string]bool `json:"steps"`
			Errors []string        `json:"errors"`
		}
		a, err := s.remove("/api/packs/"+pack, &removed)
		if err != nil {
			return "", err
		}
		s.leaves(a, "approval", "pack_uninstalled", true)
		if len(removed.Errors) > 0 || !removed.Steps["approval_remove"] || !removed.Steps["files_remove"] {
			return "", fmt.Errorf("answered %v", a)
		}
		status, err := w.api.Get(ctx, "/api/packs/"+pack+"/status")
		if err := refused(status, err, 404, "Pack not found"); err != nil {
			return "", err
		}
		if _, err := s.within(socketWait, "its sockets are gone", func() (bool, error) { return w.sockets(pack) == 0, nil }); err != nil {
			return "", err
		}
		switch _, err := os.Lstat(filepath.Join(w.cfg.Home, "ecosystem", pack)); {
		case err == nil:
			return "", fmt.Errorf("ecosystem/%s is still there", pack)
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
		left, err := w.docker.Labelled(ctx, "io.rumi.instance="+w.instance, "io.rumi.pack_id="+pack)
		if err != nil {
			return "", err
		}
		if len(left) > 0 {
			return "", fmt.Errorf("containers %v are still there", left)
		}
		return fmt.Sprintf("%s; no files, sockets or containers are left", a.Data), nil
	})
}

// discretion looks for the secret and the token where neither may be.
func (w *walk) discretion(ctx context.Context, key string) error {
	return w.step(ctx, "delete the secret; nothing told its value", func(s *step) (string, error) {
		a, err := s.post("/api/secrets/delete", map[string]any{"key": secret}, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "system", "secret_deleted", true)
		files, err := filepath.Glob(filepath.Join(w.auditDir(), "*.jsonl"))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			if bytes.Contains(data, []byte(key)) || bytes.Contains(data, []byte(w.api.Token)) {
				return "", fmt.Errorf("%s holds the secret or the token", file)
			}
		}
		return fmt.Sprintf("%d audit files hold neither the secret nor the API token", len(files)), nil
	})
}
