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

// check asks whether the useful pack may reach its upstream.
func (s *step) check() (allowed bool, reason string, err error) {
	var checked struct {
		Allowed bool   `json:"allowed"`
		Reason  string `json:"reason"`
	}
	_, err = s.post("/api/network/check", map[string]any{"pack_id": useful, "domain": s.cfg.Domain, "port": s.cfg.Port}, &checked)
	return checked.Allowed, checked.Reason, err
}

// allow grants the useful pack its one domain.
func (w *walk) allow(ctx context.Context) error {
	return w.step(ctx, fmt.Sprintf("grant it %s:%d", w.cfg.Domain, w.cfg.Port), func(s *step) (string, error) {
		allowed, before, err := s.check()
		if err != nil {
			return "", err
		}
		if allowed {
			return "", errors.New("it was allowed before")
		}
		a, err := s.post("/api/network/grant", map[string]any{
			"pack_id": useful, "allowed_domains": []string{w.cfg.Domain}, "allowed_ports": []int{w.cfg.Port},
		}, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "permission", "permission_grant", true)
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

// equip gives the useful pack its secret.
func (w *walk) equip(ctx context.Context, key string) error {
	if err := w.step(ctx, "set secret "+secret, func(s *step) (string, error) {
		a, err := s.post("/api/secrets/set", map[string]any{"key": secret, "value": key}, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "system", "secret_set", true)
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
	return w.step(ctx, "grant it secrets.get for "+secret, func(s *step) (string, error) {
		a, err := s.post("/api/capability/grants/grant", map[string]any{
			"principal_id": useful, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{secret}},
		}, nil)
		if err != nil {
			return "", err
		}
		s.leaves(a, "permission", "permission_grant", true)
		return string(a.Data), nil
	})
}

// work starts the useful pack and looks at what it does from all sides: its output, its upstream, the audit log and
// the Docker engine.
func (w *walk) work(ctx context.Context, key string) error {
	if err := w.start(ctx, useful, "start it"); err != nil {
		return err
	}
	if err := w.step(ctx, "it fetches, is refused elsewhere, reads its secret", func(s *step) (string, error) {
		lines, err := w.logs(ctx, useful, forecastDone)
		if err != nil {
			return "", err
		}
		s.began = w.began // it may have begun before this step did
		s.leavesOf("pack:"+useful, useful, "network", "network_request", true)
		s.leavesOf("pack:"+useful, useful, "network", "network_request", false)
		s.leavesOf("pack:"+useful, useful, "security", "network_denied", false)
		s.leavesOf("pack:"+useful, useful, "permission", "permission_secrets_get", true)
		shown := strings.Join(lines, "\n")
		if strings.Contains(shown, key) {
			return "", errors.New("it printed its secret")
		}
		return shown, forecastSaid(lines)
	}); err != nil {
		return err
	}
	if err := w.step(ctx, "what its upstream saw", func(*step) (string, error) {
		seen, err := upstream.Seen(w.cfg.Upstream)
		if err != nil {
			return "", err
		}
		want := upstream.Request{
			Method: "GET", Host: fmt.Sprintf("%s:%d", w.cfg.Domain, w.cfg.Port), Path: "/v1/today",
			Authorization: upstream.Fingerprint("Bearer " + key),
		}
		mine := 0
		for _, r := range seen {
			if r.Authorization == want.Authorization {
				if r != want {
					return "", fmt.Errorf("it saw %+v, want %+v", r, want)
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
	return w.confined(ctx, useful)
}

// forecastDone says whether a line of the useful pack ends one of its rounds.
func forecastDone(line string) bool {
	return line == "DONE" || strings.HasPrefix(line, "NOT DONE")
}

// forecastSaid says what is wrong with a round of the useful pack, of which a line each must begin so.
func forecastSaid(lines []string) error {
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

// start starts a pack's container.
func (w *walk) start(ctx context.Context, pack, name string) error {
	return w.step(ctx, name, func(s *step) (string, error) {
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
		s.leaves(a, "system", "container_started", true)
		return fmt.Sprintf("container %.12s is running", started.ContainerID), nil
	})
}

// logs follows a pack's output until a line is the last that matters.
func (w *walk) logs(ctx context.Context, pack string, last func(line string) bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputWait)
	defer cancel()
	response, err := w.api.Stream(ctx, "/api/containers/"+pack+"/logs?follow=true")
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

// container finds a pack's one container.
func (w *walk) container(ctx context.Context, pack string) (engine.Container, error) {
	var listed []struct {
		PackID      string `json:"pack_id"`
		ContainerID string `json:"container_id"`
	}
	a, err := w.api.Get(ctx, "/api/containers")
	if _, err := succeeded("GET /api/containers", a, err, &listed); err != nil {
		return engine.Container{}, err
	}
	for _, c := range listed {
		if c.PackID == pack {
			return w.docker.Inspect(ctx, c.ContainerID)
		}
	}
	return engine.Container{}, fmt.Errorf("%s has no container among %s", pack, a.Data)
}

// confined compares a pack's container with what it must be.
func (w *walk) confined(ctx context.Context, pack string) error {
	return w.step(ctx, "what Docker says of its container", func(*step) (string, error) {
		c, err := w.container(ctx, pack)
		if err != nil {
			return "", err
		}
		if c.Config.Labels["io.rumi.kind"] != "pack" || c.Config.Labels["io.rumi.pack_id"] != pack {
			return "", fmt.Errorf("its labels are %v", c.Config.Labels)
		}
		if w.instance = c.Config.Labels["io.rumi.instance"]; w.instance == "" {
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

// change alters a file of the running useful pack, sees it stopped, and approves it again.
func (w *walk) change(ctx context.Context) error {
	if err := w.step(ctx, "one of its files is changed", func(s *step) (string, error) {
		before, err := w.container(ctx, useful)
		if err != nil {
			return "", err
		}
		path := filepath.Join(w.cfg.Home, "ecosystem", useful, "backend/main.py")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return "", err
		}
		_, err = f.WriteString("# changed by the demo\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
		took, err := s.within(noticeWait, "network denied and container stopped", func() (bool, error) {
			allowed, reason, err := s.check()
			if err != nil || allowed {
				return false, err
			}
			if reason != "Pack is disabled due to modification" {
				return false, fmt.Errorf("refused because: %s", reason)
			}
			now, err := w.docker.Inspect(ctx, before.ID)
			return err != nil || now.State.Status != "running", nil
		})
		if err != nil {
			return "", err
		}
		s.leavesOf("system", useful, "approval", "pack_modified", false)
		if err := s.status(useful, "modified"); err != nil {
			return "", err
		}
		a, err := w.api.Post(ctx, "/api/containers/"+useful+"/start", nil)
		if err := refused(a, err, 403, "Pack not approved: modified"); err != nil {
			return "", err
		}
		return fmt.Sprintf("modified; network denied and container stopped %v later; start: %s", took.Round(time.Millisecond), a.Error), nil
	}); err != nil {
		return err
	}
	if err := w.approve(ctx, useful, "approve it again"); err != nil {
		return err
	}
	if err := w.start(ctx, useful, "start it again"); err != nil {
		return err
	}
	return w.step(ctx, "it works as before", func(*step) (string, error) {
		lines, err := w.logs(ctx, useful, forecastDone)
		return strings.Join(lines, "\n"), errors.Join(err, forecastSaid(lines))
	})
}
