package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/e2e/internal/engine"
	"github.com/rumi-ai/rumi/e2e/internal/upstream"
)

// check asks egress-proxy, through the API, whether the useful pack may reach its upstream.
func (s *step) check() (allowed bool, reason string, err error) {
	var checked struct {
		Allowed bool   `json:"allowed"`
		Reason  string `json:"reason"`
	}
	_, err = s.post("/api/network/check", map[string]any{"pack_id": useful, "domain": s.cfg.Domain, "port": s.cfg.Port}, &checked)
	return checked.Allowed, checked.Reason, err
}

// grantNetwork grants the useful pack its one domain and port.
func (r *runner) grantNetwork(ctx context.Context) error {
	return r.step(ctx, fmt.Sprintf("grant it %s:%d", r.cfg.Domain, r.cfg.Port), func(s *step) (string, error) {
		allowed, before, err := s.check()
		if err != nil {
			return "", err
		}
		if allowed {
			return "", errors.New("it was allowed before")
		}
		a, err := s.post("/api/network/grant", map[string]any{
			"pack_id": useful, "allowed_domains": []string{r.cfg.Domain}, "allowed_ports": []int{r.cfg.Port},
		}, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "permission", "permission_grant", true)
		allowed, after, err := s.check()
		if err != nil {
			return "", err
		}
		if !allowed {
			return "", fmt.Errorf("not allowed after the grant: %s", after)
		}
		return fmt.Sprintf("before: %s\nafter: %s", before, after), nil
	})
}

// grantSecret sets the secret to key, and grants the useful pack to read it.
func (r *runner) grantSecret(ctx context.Context, key string) error {
	if err := r.step(ctx, "set secret "+secret, func(s *step) (string, error) {
		a, err := s.post("/api/secrets/set", map[string]any{"key": secret, "value": key}, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "system", "secret_set", true)
		listed, err := s.get("/api/secrets", nil)
		if err != nil {
			return "", err
		}
		if !bytes.Contains(listed.Data, []byte(secret)) || bytes.Contains(listed.Data, []byte(key)) {
			return "", fmt.Errorf("the list of secrets is %s", listed.Data)
		}
		return "listed, masked", nil
	}); err != nil {
		return err
	}
	return r.step(ctx, "grant it secrets.get for "+secret, func(s *step) (string, error) {
		a, err := s.post("/api/capability/grants/grant", map[string]any{
			"principal_id": useful, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{secret}},
		}, nil)
		if err != nil {
			return "", err
		}
		s.expectAudit(a, "permission", "permission_grant", true)
		return string(a.Data), nil
	})
}

// runForecast starts the useful pack and compares four witnesses of what it does: its output, the requests that its upstream received,
// the audit log, and the Docker engine.
func (r *runner) runForecast(ctx context.Context, key string) error {
	if err := r.start(ctx, useful, "start it"); err != nil {
		return err
	}
	if err := r.step(ctx, "it fetches, is refused elsewhere, reads its secret", func(s *step) (string, error) {
		lines, err := r.logs(ctx, useful, endsRound)
		if err != nil {
			return "", err
		}
		s.began = r.began // the pack may have made its requests before this step began
		s.expectAuditOf("pack:"+useful, useful, "network", "network_request", true)
		s.expectAuditOf("pack:"+useful, useful, "network", "network_request", false)
		s.expectAuditOf("pack:"+useful, useful, "security", "network_denied", false)
		s.expectAuditOf("pack:"+useful, useful, "permission", "permission_secrets_get", true)
		shown := strings.Join(lines, "\n")
		if strings.Contains(shown, key) {
			return "", errors.New("it printed its secret")
		}
		return shown, checkForecast(lines)
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "what its upstream saw", func(*step) (string, error) {
		seen, err := upstream.Seen(r.cfg.Upstream)
		if err != nil {
			return "", err
		}
		want := upstream.Request{
			Method: "GET", Host: fmt.Sprintf("%s:%d", r.cfg.Domain, r.cfg.Port), Path: "/v1/today",
			Authorization: upstream.Fingerprint("Bearer " + key),
		}
		mine := 0
		for _, request := range seen {
			if request.Authorization == want.Authorization {
				if request != want {
					return "", fmt.Errorf("it saw %+v, want %+v", request, want)
				}
				mine++
			}
		}
		if mine == 0 {
			return "", fmt.Errorf("it saw nothing with the secret: %+v", seen)
		}
		return fmt.Sprintf("%d × GET https://%s%s with the secret as its bearer token", mine, want.Host, want.Path), nil
	}); err != nil {
		return err
	}
	return r.checkConfinement(ctx, useful)
}

// endsRound reports whether a line of output is the last of a round of the useful pack. It repeats its round for ever.
func endsRound(line string) bool {
	return line == "DONE" || strings.HasPrefix(line, "NOT DONE")
}

// checkForecast checks the output of one round of the useful pack: each line must have the wanted beginning. It returns nil if all have.
func checkForecast(lines []string) error {
	for i, want := range []string{
		"KEY " + secret + ": read",
		"FORECAST 200 {",
		"KEPT /data/",
		"REFUSED https://elsewhere.rumi.test/ grant_denied: Network access denied: ",
		"DONE",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			return fmt.Errorf("line %d does not begin with %q:\n%s", i+1, want, strings.Join(lines, "\n"))
		}
	}
	return nil
}

// start starts a pack's container, as a step of that name.
func (r *runner) start(ctx context.Context, pack, name string) error {
	return r.step(ctx, name, func(s *step) (string, error) {
		var started struct {
			ContainerID string `json:"container_id"`
			Status      string `json:"status"`
		}
		a, err := s.post("/api/containers/"+pack+"/start", nil, &started)
		if err != nil {
			return "", err
		}
		if started.ContainerID == "" || started.Status != "running" {
			return "", fmt.Errorf("answered %v", a)
		}
		s.expectAudit(a, "system", "container_started", true)
		return fmt.Sprintf("container %.12s is running", started.ContainerID), nil
	})
}

// logs follows a pack's output until last returns true for a line. It returns all lines up to that one; an error if the output ends
// before, or after outputWait.
func (r *runner) logs(ctx context.Context, pack string, last func(line string) bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputWait)
	defer cancel()
	response, err := r.api.Stream(ctx, "/api/containers/"+pack+"/logs?follow=true")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var lines []string
	events := bufio.NewScanner(response.Body)
	for events.Scan() {
		data, ok := strings.CutPrefix(events.Text(), "data:")
		if !ok {
			continue
		}
		var line struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal([]byte(data), &line); err != nil {
			return lines, fmt.Errorf("read logs of %s: %q: %w", pack, data, err)
		}
		text := strings.TrimRight(line.Text, "\n")
		lines = append(lines, text)
		if last(text) {
			return lines, nil
		}
	}
	return lines, fmt.Errorf("read logs of %s: they end (%w) after:\n%s", pack, events.Err(), strings.Join(lines, "\n"))
}

// container inspects the pack's container. It is an error if the API lists none.
func (r *runner) container(ctx context.Context, pack string) (engine.Container, error) {
	var listed []struct {
		PackID      string `json:"pack_id"`
		ContainerID string `json:"container_id"`
	}
	a, err := r.api.Get(ctx, "/api/containers")
	if _, err := succeeded("GET /api/containers", a, err, &listed); err != nil {
		return engine.Container{}, err
	}
	for _, c := range listed {
		if c.PackID == pack {
			return r.docker.Inspect(ctx, c.ContainerID)
		}
	}
	return engine.Container{}, fmt.Errorf("%s has no container among %s", pack, a.Data)
}

// checkConfinement asks the Docker engine, not Rumi, how the pack's container is confined. It notes the suite's instance label.
func (r *runner) checkConfinement(ctx context.Context, pack string) error {
	return r.step(ctx, "what Docker says of its container", func(*step) (string, error) {
		c, err := r.container(ctx, pack)
		if err != nil {
			return "", err
		}
		if c.Config.Labels["io.rumi.kind"] != "pack" || c.Config.Labels["io.rumi.pack_id"] != pack {
			return "", fmt.Errorf("its labels are %v", c.Config.Labels)
		}
		if r.instance = c.Config.Labels["io.rumi.instance"]; r.instance == "" {
			return "", errors.New("it has no label io.rumi.instance")
		}
		if bad := violations(c); len(bad) > 0 {
			return "", errors.New(strings.Join(bad, "; "))
		}
		var mounts []string
		for _, m := range c.Mounts {
			mode := "ro"
			if m.RW {
				mode = "rw"
			}
			mounts = append(mounts, m.Destination+" "+mode)
		}
		slices.Sort(mounts)
		return fmt.Sprintf("no network, read-only root, user %s, no capabilities, no new privileges, %d MiB, %d processes\nmounts: %s",
			c.Config.User, c.HostConfig.Memory>>20, c.HostConfig.PidsLimit, strings.Join(mounts, ", ")), nil
	})
}

// changeFile alters a file of the running useful pack. It checks that the pack is stopped and refused, approves it again, and checks that
// it works as before.
func (r *runner) changeFile(ctx context.Context) error {
	if err := r.step(ctx, "one of its files is changed", func(s *step) (string, error) {
		before, err := r.container(ctx, useful)
		if err != nil {
			return "", err
		}
		path := filepath.Join(r.cfg.Home, "ecosystem", useful, "backend/main.py")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return "", err
		}
		_, err = f.WriteString("# changed by the demo\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
		took, err := s.waitUntil(enforcementWait, "network denied and container stopped", func() (bool, error) {
			allowed, reason, err := s.check()
			if err != nil || allowed {
				return false, err
			}
			if reason != "Pack is disabled due to modification" {
				return false, fmt.Errorf("refused because: %s", reason)
			}
			now, err := r.docker.Inspect(ctx, before.ID)
			return err != nil || now.State.Status != "running", nil
		})
		if err != nil {
			return "", err
		}
		s.expectAuditOf("system", useful, "approval", "pack_modified", false)
		if err := s.status(useful, "modified"); err != nil {
			return "", err
		}
		a, err := r.api.Post(ctx, "/api/containers/"+useful+"/start", nil)
		if err := refused(a, err, 403, "Pack not approved: modified"); err != nil {
			return "", err
		}
		return fmt.Sprintf("modified; network denied and container stopped %v later; start: %s", took.Round(time.Millisecond), a.Error), nil
	}); err != nil {
		return err
	}
	if err := r.approve(ctx, useful, "approve it again"); err != nil {
		return err
	}
	if err := r.start(ctx, useful, "start it again"); err != nil {
		return err
	}
	return r.step(ctx, "it works as before", func(*step) (string, error) {
		lines, err := r.logs(ctx, useful, endsRound)
		return strings.Join(lines, "\n"), errors.Join(err, checkForecast(lines))
	})
}
