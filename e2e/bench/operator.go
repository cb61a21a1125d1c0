package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// socketWait is the longest wait for a pack's sockets. The contract promises a second; the bound is larger for slow machines.
const socketWait = 30 * time.Second

// post calls the API as an operator does, which must succeed, and decodes the data into v if v isn't nil.
func (b *bench) post(ctx context.Context, path string, body, v any) error {
	return succeeded(v)(b.suite.API.Post(ctx, path, body))
}

// succeeded returns a function that checks an answer and its error: both must show success. It decodes the data into v if v isn't nil.
func succeeded(v any) func(api.Answer, error) error {
	return func(a api.Answer, err error) error {
		if err != nil {
			return err
		}
		if !a.Success {
			return fmt.Errorf("call the API: answered %v", a)
		}
		if v == nil {
			return nil
		}
		return a.Into(v)
	}
}

// write writes the files of a pack and a descriptor into ecosystem/.
func (b *bench) write(id string, files map[string]string) error {
	dir := filepath.Join(b.suite.Home, "ecosystem", id)
	all := map[string]string{"ecosystem.json": fmt.Sprintf(`{"pack_id": %q, "pack_identity": "github:bench/%s", "version": "1.0.0"}`, id, id)}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
	}
	return nil
}

func (b *bench) scan(ctx context.Context) error { return b.post(ctx, "/api/packs/scan", nil, nil) }

func (b *bench) approve(ctx context.Context, id string) error {
	return b.post(ctx, "/api/packs/"+id+"/approve", nil, nil)
}

// install writes a pack, approves it, and waits for both its sockets.
func (b *bench) install(ctx context.Context, id string, files map[string]string) error {
	if err := b.write(id, files); err != nil {
		return err
	}
	if err := errors.Join(b.scan(ctx), b.approve(ctx, id)); err != nil {
		return err
	}
	return b.until(ctx, socketWait, "the sockets of "+id, func() (bool, error) {
		for _, kind := range []string{"egress", "capability"} {
			if _, err := os.Stat(b.suite.Socket(kind, id)); errors.Is(err, fs.ErrNotExist) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// grantNetwork lets a pack reach hosts at a port.
func (b *bench) grantNetwork(ctx context.Context, id string, port int, hosts ...string) error {
	return b.post(ctx, "/api/network/grant", map[string]any{"pack_id": id, "allowed_domains": hosts, "allowed_ports": []int{port}}, nil)
}

// grantCapability lets a pack use a permission.
func (b *bench) grantCapability(ctx context.Context, id, permission string, config map[string]any) error {
	return b.post(ctx, "/api/capability/grants/grant", map[string]any{"principal_id": id, "permission_id": permission, "config": config}, nil)
}

// trustHandlers scans for handlers and approves every candidate that is pending.
func (b *bench) trustHandlers(ctx context.Context) error {
	if err := b.post(ctx, "/api/capability/candidates/scan", nil, nil); err != nil {
		return err
	}
	var waiting struct {
		Items []struct {
			Key string `json:"candidate_key"`
		} `json:"items"`
	}
	if err := succeeded(&waiting)(b.suite.API.Get(ctx, "/api/capability/requests?status=pending")); err != nil {
		return err
	}
	for _, item := range waiting.Items {
		if err := b.post(ctx, "/api/capability/requests/"+url.PathEscape(item.Key)+"/approve", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// until calls so every 5 ms until it returns true or an error, for most at most. what is for the error.
func (b *bench) until(ctx context.Context, most time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		yes, err := so()
		if yes || err != nil {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}
