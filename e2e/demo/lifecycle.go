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

// The longest that the demo waits. The contract promises a second for a change and for a socket; the bounds are larger for slow machines.
const (
	startWait = 2 * time.Minute // for a suite that is just coming up
	// These usually take a fraction of a second. Each step prints how long it took.
	enforcementWait = 15 * time.Second
	socketWait      = 15 * time.Second
	outputWait      = time.Minute
)

// lifecycle takes both packs from their archives to their uninstall. It stops at the first surprise and returns it.
func (r *runner) lifecycle(ctx context.Context) error {
	began := time.Now()
	if err := r.awaitSuite(ctx); err != nil {
		return err
	}
	if err := r.refuseUsedNames(ctx); err != nil {
		return err
	}
	key := "demo-" + rand.Text()
	for _, part := range []func(context.Context) error{
		r.wrongToken,
		func(ctx context.Context) error { return r.install(ctx, useful) },
		r.grantNetwork,
		func(ctx context.Context) error { return r.grantSecret(ctx, key) },
		func(ctx context.Context) error { return r.runForecast(ctx, key) },
		r.changeFile,
		// The useful pack stays installed, so that the hostile one can try to use its grants.
		func(ctx context.Context) error { return r.install(ctx, hostile) },
		r.runHostile,
		func(ctx context.Context) error { return r.uninstall(ctx, hostile) },
		func(ctx context.Context) error { return r.uninstall(ctx, useful) },
		func(ctx context.Context) error { return r.checkNoLeak(ctx, key) },
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(r.out, "\n%d steps, no surprise, %v.\n", r.steps, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// awaitSuite waits until every service answers, startWait at most.
func (r *runner) awaitSuite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		var problem error
		for _, path := range []string{"/api/packs", "/api/network/list", "/api/containers", "/api/pip/blocked", "/api/secrets"} {
			a, err := r.api.Get(ctx, path)
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

// refuseUsedNames returns an error if the suite has a pack or a secret of a name that the demo uses: the demo would replace and remove
// what an operator made. deploy/demo/run brings up a suite of its own, which has none.
func (r *runner) refuseUsedNames(ctx context.Context) error {
	for _, pack := range []string{useful, hostile} {
		a, err := r.api.Get(ctx, "/api/packs/"+pack+"/status")
		if err != nil {
			return err
		}
		if a.Status != 404 {
			return fmt.Errorf("pack %q is known to this suite (answered %v): the demo would remove it; run `make demo`, which brings up a suite of its own", pack, a)
		}
	}
	var secrets struct {
		Keys []struct {
			Key     string `json:"key"`
			Deleted bool   `json:"deleted"`
		} `json:"keys"`
	}
	a, err := r.api.Get(ctx, "/api/secrets")
	if _, err := succeeded("GET /api/secrets", a, err, &secrets); err != nil {
		return err
	}
	for _, k := range secrets.Keys {
		if k.Key == secret && !k.Deleted {
			return fmt.Errorf("secret %s is set in this suite: the demo would replace it; run `make demo`, which brings up a suite of its own", secret)
		}
	}
	return nil
}

// wrongToken checks that a call with a wrong token is refused and audited.
func (r *runner) wrongToken(ctx context.Context) error {
	return r.step(ctx, "a wrong token is refused", func(s *step) (string, error) {
		stranger := api.Client{Base: r.cfg.API, Host: r.cfg.Host, Token: "0000"}
		a, err := stranger.Get(ctx, "/api/packs")
		s.expectAudit(a, "security", "authentication_failed", false)
		return a.String(), refused(a, err, 401, "Unauthorized")
	})
}

// install brings a pack from its archive to its approval: import, apply, scan, approve. Before the approve it checks that the pack can't start.
func (r *runner) install(ctx context.Context, pack string) error {
	var imported struct {
		StagingID       string   `json:"staging_id"`
		InputType       string   `json:"input_type"`
		DetectedPackIDs []string `json:"detected_pack_ids"`
	}
	if err := r.step(ctx, "import "+pack+" (upload)", func(s *step) (string, error) {
		data, err := archive(filepath.Join(r.cfg.Packs, pack))
		if err != nil {
			return "", err
		}
		a, err := r.api.Upload(ctx, pack+".zip", data)
		if a, err = succeeded("import", a, err, &imported); err != nil {
			return "", err
		}
		s.expectAudit(a, "system", "pack_import_", true)
		if !slices.Equal(imported.DetectedPackIDs, []string{pack}) {
			return "", fmt.Errorf("detected %v", imported.DetectedPackIDs)
		}
		return fmt.Sprintf("%d bytes of %s, staged as %s", len(data), imported.InputType, imported.StagingID), nil
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "apply", func(s *step) (string, error) {
		var applied struct {
			AppliedPackIDs []string `json:"applied_pack_ids"`
		}
		a, err := s.post("/api/packs/apply", map[string]any{"staging_id": imported.StagingID}, &applied)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "system", "pack_apply_", true)
		if !slices.Equal(applied.AppliedPackIDs, []string{pack}) {
			return "", fmt.Errorf("applied %v", applied.AppliedPackIDs)
		}
		return "ecosystem/" + pack, nil
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "scan; it is pending", func(s *step) (string, error) {
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
	if err := r.step(ctx, "it can't be started yet", func(s *step) (string, error) {
		a, err := r.api.Post(ctx, "/api/containers/"+pack+"/start", nil)
		s.expectAudit(a, "security", "container_start_denied", false)
		return a.String(), refused(a, err, 403, "Pack not approved: ")
	}); err != nil {
		return err
	}
	return r.approve(ctx, pack, "approve")
}

// approve approves a pack, as a step of that name, and waits for its two sockets.
func (r *runner) approve(ctx context.Context, pack, name string) error {
	return r.step(ctx, name, func(s *step) (string, error) {
		a, err := s.post("/api/packs/"+pack+"/approve", nil, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "approval", "pack_approved", true)
		if err := s.status(pack, "approved"); err != nil {
			return "", err
		}
		took, err := s.waitUntil(socketWait, "the pack's sockets", func() (bool, error) { return r.sockets(pack) == 2, nil })
		return fmt.Sprintf("approved; its two sockets were there %v later", took.Round(time.Millisecond)), err
	})
}

// sockets counts the sockets of a pack (0 to 2) that have the promised modes: a socket of mode 0660 in a folder of mode 0750, which other
// users can't enter.
func (r *runner) sockets(pack string) (count int) {
	sum := sha256.Sum256([]byte(pack))
	name := hex.EncodeToString(sum[:])[:32]
	for _, dir := range []string{"egress/packs", "capability/principals"} {
		folder, err := os.Stat(filepath.Join(r.cfg.Sockets, dir, name))
		if err != nil || folder.Mode().Perm() != 0o750 {
			continue
		}
		socket, err := os.Lstat(filepath.Join(r.cfg.Sockets, dir, name, "rumi.sock"))
		if err == nil && socket.Mode().Type() == os.ModeSocket && socket.Mode().Perm() == 0o660 {
			count++
		}
	}
	return count
}

// status checks that the API reports this status of a pack.
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
