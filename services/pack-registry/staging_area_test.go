package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// The service starts whatever lies in the place of its staging area: it says so, packs can be listed all the same, and imports work as
// soon as the obstacle is gone.
func TestStagingAreaIsNoFolder(t *testing.T) {
	for name, obstruct := range map[string]func(path string) error{
		"a file":        func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"a FIFO":        func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a broken link": func(path string) error { return os.Symlink("nowhere/at all", path) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{t: t, known: map[string]bool{}, down: map[string]bool{}}
			s.Suite = servicetest.New(t, "pack-registry", "approval", "capability-broker", "egress-proxy", "pip-installer")
			for _, dir := range []string{"user_data/import", "user_data/import/p"} {
				if err := os.MkdirAll(s.path(dir), 0o750); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(s.path("user_data/import/p/ecosystem.json"), []byte(`{"pack_id":"p","pack_identity":"i"}`), 0o644); err != nil {
				t.Fatal(err)
			}
			s.standIn("approval", `{"removed": true}`)
			area := s.path("user_data/pack_staging")
			if err := os.RemoveAll(area); err != nil {
				t.Fatal(err)
			}
			if err := obstruct(area); err != nil {
				t.Fatal(err)
			}
			servicetest.Start(s.Suite, "pack-registry", build, map[string]string{"RUMI_ECOSYSTEM": s.Ecosystem()})
			peer := s.Peer("gateway", "pack-registry")
			call := func(method, path string, body any) error {
				_, err := client.Call[map[string]any](t.Context(), peer, method, path, body)
				return err
			}
			refused := func(err error) {
				t.Helper()
				if err == nil || !strings.HasPrefix(err.Error(), "user_data/pack_staging") || !strings.Contains(err.Error(), "in the Rumi home") && !strings.Contains(err.Error(), "Move away") {
					t.Errorf("got %v, want what is in the way and what mends it", err)
				}
			}
			refused(call("POST", "/api/packs/import", map[string]string{"path": "user_data/import/p"}))
			refused(call("POST", "/api/packs/apply", map[string]string{"staging_id": strings.Repeat("0", 16)}))
			if err := call("POST", "/api/packs/scan", map[string]any{}); err != nil {
				t.Errorf("scan: %v, want an answer", err)
			}
			if err := os.Remove(area); err != nil {
				t.Fatal(err)
			}
			if err := call("POST", "/api/packs/import", map[string]string{"path": "user_data/import/p"}); err != nil {
				t.Errorf("without the obstacle: %v", err)
			}
		})
	}
}
