package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// The example packs, and the secret that the useful one reads.
const (
	useful  = "forecast"
	hostile = "escape_artist"
	secret  = "FORECAST_API_KEY"
)

// How long things may take. The contract gives a change and a socket a second each; the rest is patience.
const (
	startWait = 2 * time.Minute // for a suite that is just coming up
	// These take a fraction of a second, and each step says how long; a machine with other work to do may take its time.
	noticeWait = 15 * time.Second
	socketWait = 15 * time.Second
	outputWait = time.Minute
)

// life takes both packs from their archives to their removal.
func (w *walk) life(ctx context.Context) error {
	began := time.Now()
	if err := w.awaitSuite(ctx); err != nil {
		return err
	}
	if err := w.nothingOfOthers(ctx); err != nil {
		return err
	}
	key := "demo-" + rand.Text()
	for _, part := range []func(context.Context) error{
		w.strangers,
		func(ctx context.Context) error { return w.arrive(ctx, useful) },
		w.allow,
		func(ctx context.Context) error { return w.equip(ctx, key) },
		func(ctx context.Context) error { return w.work(ctx, key) },
		w.change,
		// The useful one stays while the hostile one tries to get at what it was granted.
		func(ctx context.Context) error { return w.arrive(ctx, hostile) },
		w.escape,
		func(ctx context.Context) error { return w.leave(ctx, hostile) },
		func(ctx context.Context) error { return w.leave(ctx, useful) },
		func(ctx context.Context) error { return w.discretion(ctx, key) },
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(w.out, "\n%d steps, no surprise, %v.\n", w.steps, time.Since(began).Round(100*time.Millisecond))
	return nil
}

func (w *walk) awaitSuite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		var problem error
		for _, path := range []string{"/api/packs", "/api/network/list", "/api/containers", "/api/pip/blocked", "/api/secrets"} {
			a, err := w.api.Get(ctx, path)
			if problem = err; err == nil && a.Status != 200 {
				problem = fmt.Errorf("%s answered %v", path, a)
			}
			if problem != nil {
				break
			}
		}
		if problem == nil {
			return nil
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for the suite: %w", problem)
		}
	}
}

// nothingOfOthers refuses a suite in which a pack or a secret has a name that the demo uses: it would replace and remove what
// an operator made. deploy/demo/run brings up a suite of its own, which has none.
func (w *walk) nothingOfOthers(ctx context.Context) error {
	for _, pack := range []string{useful, hostile} {
		a, err := w.api.Get(ctx, "/api/packs/"+pack+"/status")
		if err != nil {
			return err
		}
		if a.Status != 404 {
			return fmt.Errorf("pack %q is known to this suite (answered %v): the demo would remove it; run `make demo`, which brings up a suite of its own", pack, a)
		}
	}
	var secrets struct {
		Keys []struct {
			Key string `json:"key"`
		} `json:"keys"`
	}
	a, err := w.api.Get(ctx, "/api/secrets")
	if _, err := succeeded("GET /api/secrets", a, err, &secrets); err != nil {
		return err
	}
	for _, k := range secrets.Keys {
		if k.Key == secret {
			return fmt.Errorf("secret %s is set in this suite: the demo would replace it; run `make demo`, which brings up a suite of its own", secret)
		}
	}
	return nil
}

// strangers are turned away.
func (w *walk) strangers(ctx context.Context) error {
	return w.step(ctx, "a wrong token is refused", func(s *step) (string, error) {
		stranger := api.Client{Base: w.cfg.API, Host: w.cfg.Host, Token: "0000"}
		a, err := stranger.Get(ctx, "/api/packs")
		s.leaves(a, "security", "authentication_failed", false)
		return a.String(), refused(a, err, 401, "Unauthorized")
	})
}

// arrive brings a pack from its archive to being approved.
func (w *walk) arrive(ctx context.Context, pack string) error {
	var imported struct {
		StagingID       string   `json:"staging_id"`
		InputType       string   `json:"input_type"`
		DetectedPackIDs []string `json:"detected_pack_ids"`
	}
	if err := w.step(ctx, "import "+pack+" (upload)", func(s *step) (string, error) {
		data, err := archive(filepath.Join(w.cfg.Packs, pack))
		if err != nil {
			return "", err
		}
		a, err := w.api.Upload(ctx, pack+".zip", data)
		if a, err = succeeded("import", a, err, &imported); err != nil {
			return "", err
		}
		s.leaves(a, "system", "pack_import_", true)
		if !slices.Equal(imported.DetectedPackIDs, []string{pack}) {
			return "", fmt.Errorf("detected %v", imported.DetectedPackIDs)
		}
		return fmt.Sprintf("%d bytes of %s, staged as %s", len(data), imported.InputType, imported.StagingID), nil
	}); err != nil {
		return err
	}
	if err := w.step(ctx, "apply", func(s *step) (string, error) {
		var applied struct {
			AppliedPackIDs []string `json:"applied_pack_ids"`
		}
		a, err := s.post("/api/packs/apply", map[string]any{"staging_id": imported.StagingID}, &applied)
		if err != nil {
			return "", err
		}
		s.leaves(a, "system", "pack_apply_", true)
		if !slices.Equal(applied.AppliedPackIDs, []string{pack}) {
			return "", fmt.Errorf("applied %v", applied.AppliedPackIDs)
		}
		return "ecosystem/" + pack, nil
	}); err != nil {
		return err
	}
	if err := w.step(ctx, "scan; it is pending", func(s *step) (string, error) {
		var scanned struct {
			Scanned int      `json:"scanned"`
			Packs   []string `json:"packs"`
		}
		if _, err := s.post("/api/packs/scan", nil, &scanned); err != nil {
			return "", err
		}
		var pending []string
		if _, err := s.get("/api/packs/pending", &pending); err != nil {
			return "", err
		}
		if !slices.Contains(scanned.Packs, pack) || !slices.Contains(pending, pack) {
			return "", fmt.Errorf("scanned %v, pending %v", scanned.Packs, pending)
		}
		return fmt.Sprintf("%d scanned, pending: %s", scanned.Scanned, strings.Join(pending, ", ")), nil
	}); err != nil {
		return err
	}
	if err := w.step(ctx, "it can't be started yet", func(s *step) (string, error) {
		a, err := w.api.Post(ctx, "/api/containers/"+pack+"/start", nil)
		s.leaves(a, "security", "container_start_denied", false)
		return a.String(), refused(a, err, 403, "Pack not approved: ")
	}); err != nil {
		return err
	}
	return w.approve(ctx, pack, "approve")
}

// approve approves a pack and waits for its sockets.
func (w *walk) approve(ctx context.Context, pack, name string) error {
	return w.step(ctx, name, func(s *step) (string, error) {
		a, err := s.post("/api/packs/"+pack+"/approve", nil, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "approval", "pack_approved", true)
		if err := s.status(pack, "approved"); err != nil {
			return "", err
		}
		took, err := s.within(socketWait, "the pack's sockets", func() (bool, error) { return w.sockets(pack) == 2, nil })
		return fmt.Sprintf("approved; its two sockets were there %v later", took.Round(time.Millisecond)), err
	})
}

// sockets counts the sockets that a pack has, each 0660 in a folder that others can't enter.
func (w *walk) sockets(pack string) (count int) {
	sum := sha256.Sum256([]byte(pack))
	name := hex.EncodeToString(sum[:])[:32]
	for _, dir := range []string{"egress/packs", "capability/principals"} {
		own, err := os.Stat(filepath.Join(w.cfg.Sockets, dir, name))
		if err != nil || own.Mode().Perm() != 0o750 {
			continue
		}
		socket, err := os.Lstat(filepath.Join(w.cfg.Sockets, dir, name, "rumi.sock"))
		if err == nil && socket.Mode().Type() == os.ModeSocket && socket.Mode().Perm() == 0o660 {
			count++
		}
	}
	return count
}

func (s *step) status(pack, want string) error {
	var status struct {
		Status string `json:"status"`
	}
	if _, err := s.get("/api/packs/"+pack+"/status", &status); err != nil {
		return err
	}
	if status.Status != want {
		return fmt.Errorf("status is %q, want %q", status.Status, want)
	}
	return nil
}
