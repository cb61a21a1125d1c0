package journeys

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// The size of a crash test: the numbers of changes that are acknowledged before and after the kill.
const (
	changesBefore  = 5
	changesAfter   = 5
	changes        = 60 // at most, prepared beforehand; enough for the longest recovery
	changeInterval = 50 * time.Millisecond
	crashAnswer    = 20 * time.Second // longer is a hang
	crashRecovery  = 3 * time.Minute
)

// crashCase is a service that is killed while changes are sent to it.
type crashCase struct {
	service  string
	prepare  func(t *testing.T)
	change   func(ctx context.Context, i int) (api.Answer, error)
	survived func(t *testing.T, i int) bool // whether change i can be read back
}

var crashCases = []crashCase{
	{
		service: "approval",
		prepare: func(t *testing.T) { copyPacks(t, "crash_a", nil) },
		change: func(ctx context.Context, i int) (api.Answer, error) {
			return suite.api.Post(ctx, "/api/packs/"+packID("crash_a", i)+"/approve", nil)
		},
		survived: func(t *testing.T, i int) bool { return status(t, packID("crash_a", i)) == "approved" },
	},
	{
		service: "pack-registry",
		prepare: func(*testing.T) {},
		change: func(ctx context.Context, i int) (api.Answer, error) {
			id := packID("crash_r", i)
			a, err := suite.api.Upload(ctx, id+".zip", archives[i])
			if err != nil || a.Status != 200 {
				return a, err
			}
			var staged struct {
				StagingID string `json:"staging_id"`
			}
			if err := a.Into(&staged); err != nil {
				return a, err
			}
			return suite.api.Post(ctx, "/api/packs/apply", map[string]any{"staging_id": staged.StagingID})
		},
		survived: func(t *testing.T, i int) bool {
			return status(t, packID("crash_r", i)) == "installed" || status(t, packID("crash_r", i)) == "pending"
		},
	},
	{
		service: "egress-proxy",
		prepare: func(t *testing.T) { copyPacks(t, "crash_e", nil) },
		change: func(ctx context.Context, i int) (api.Answer, error) {
			return suite.api.Post(ctx, "/api/network/grant", map[string]any{
				"pack_id": packID("crash_e", i), "allowed_domains": []string{"api.example.com"}, "allowed_ports": []int{443},
			})
		},
		survived: func(t *testing.T, i int) bool {
			return strings.Contains(string(get(t, "/api/network/list").Data), `"`+packID("crash_e", i)+`"`)
		},
	},
	{
		service: "capability-broker",
		prepare: func(t *testing.T) { copyPacks(t, "crash_b", nil) },
		change: func(ctx context.Context, i int) (api.Answer, error) {
			return suite.api.Post(ctx, "/api/capability/grants/grant", map[string]any{
				"principal_id": packID("crash_b", i), "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"A"}},
			})
		},
		survived: func(t *testing.T, i int) bool {
			return strings.Contains(string(get(t, "/api/capability/grants?principal_id="+packID("crash_b", i)).Data), `"secrets.get"`)
		},
	},
	{
		service: "pip-installer",
		prepare: func(t *testing.T) {
			copyPacks(t, "crash_p", files{"requirements.lock": "idna==3.10\n"})
			post(t, "/api/pip/candidates/scan", nil)
			for _, item := range pipItems(t) {
				candidates[item.PackID] = item.CandidateKey
			}
		},
		change: func(ctx context.Context, i int) (api.Answer, error) {
			key := candidates[packID("crash_p", i)]
			return suite.api.Post(ctx, "/api/pip/requests/"+url.PathEscape(key)+"/reject", map[string]any{"reason": "crash"})
		},
		survived: func(t *testing.T, i int) bool {
			for _, item := range pipItems(t) {
				if item.PackID == packID("crash_p", i) {
					return item.Status == "rejected" || item.Status == "blocked"
				}
			}
			return false
		},
	},
	{
		service:  "secrets",
		prepare:  func(*testing.T) {},
		change:   func(ctx context.Context, i int) (api.Answer, error) { return setSecret(ctx, "CRASH_S", i) },
		survived: func(t *testing.T, i int) bool { return hasSecret(t, "CRASH_S", i) },
	},
	{
		service:  "gateway",
		prepare:  func(*testing.T) {},
		change:   func(ctx context.Context, i int) (api.Answer, error) { return setSecret(ctx, "CRASH_G", i) },
		survived: func(t *testing.T, i int) bool { return hasSecret(t, "CRASH_G", i) },
	},
}

// TestKill kills each service with SIGKILL while changes are sent to it. No acknowledged change may be lost, and the service must come back
// without help.
func TestKill(t *testing.T) {
	for i := range changes {
		id := packID("crash_r", i)
		archives[i] = plainPack(id).zip(t, id)
	}
	for _, subject := range crashCases {
		t.Run(subject.service, func(t *testing.T) { subject.crash(t) })
	}
}

func (s crashCase) crash(t *testing.T) {
	s.prepare(t)
	for i := range changesBefore {
		a, err := s.change(t.Context(), i)
		must(t, a, err)
	}
	killed := time.Now()
	kill := make(chan error, 1)
	go func() { kill <- suite.kill(t.Context(), s.service) }()

	// Changes are sent while the service dies and comes back. Each one is repeated until it is acknowledged.
	next, refused := changesBefore, 0
	for acknowledged := 0; next < changes && (acknowledged < changesAfter || len(kill) == 0); {
		began := time.Now()
		a, err := s.change(t.Context(), next)
		switch {
		case time.Since(began) > crashAnswer:
			t.Fatalf("an answer took %v: %v, %v; want it within %v", time.Since(began), a, err, crashAnswer)
		case err == nil && a.Status == 200:
			acknowledged++
			next++
		case s.service != "gateway" && (err != nil || a.Status != 503):
			t.Fatalf("answered %v, %v; want 503 while it is away", a, err)
		default:
			refused++
		}
		if time.Since(killed) > crashRecovery {
			t.Fatalf("%s did not come back within %v; its last answer: %v, %v", s.service, crashRecovery, a, err)
		}
		time.Sleep(changeInterval)
	}
	if err := <-kill; err != nil {
		t.Fatal(err)
	}
	// The kill may have come after the last change, so wait for the service.
	ctx, cancel := context.WithTimeout(t.Context(), crashRecovery)
	defer cancel()
	if err := suite.awaitServices(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range next {
		if !s.survived(t, i) {
			t.Errorf("change %d was acknowledged and is lost, want it to survive", i)
		}
	}
	t.Logf("%d changes survived, %d were refused meanwhile", next, refused)
}

// kill ends a service's process with SIGKILL, as the kernel does when memory runs out. `docker kill` is no substitute: the engine would
// regard it as the operator's stop, and not start the container again.
func (s *installation) kill(ctx context.Context, service string) error {
	id, err := s.container(ctx, service)
	if err != nil {
		return err
	}
	return s.killContainer(ctx, id)
}

func (s *installation) killContainer(ctx context.Context, id string) error {
	pid, err := s.command(ctx, commandWait, "docker", "inspect", "--format", "{{.State.Pid}}", id)
	if err != nil {
		return err
	}
	_, err = s.asRoot(ctx, []string{"--pid", "host", "--cap-drop", "ALL", "--cap-add", "KILL"}, "kill -9 "+strings.TrimSpace(pid))
	return err
}

// Data that the cases prepare before the kill.
var (
	archives   [changes][]byte
	candidates = map[string]string{} // pack to its pip candidate
)

// packID returns the id of a case's pack number i.
func packID(prefix string, i int) string { return fmt.Sprintf("%s%02d", prefix, i) }

// copyPacks puts a pack for each change into ecosystem/, and scans.
func copyPacks(t *testing.T, prefix string, more files) {
	t.Helper()
	for i := range changes {
		id := packID(prefix, i)
		plainPack(id).with(more).copyToEcosystem(t, id)
	}
	post(t, "/api/packs/scan", nil)
}

type pipItem struct {
	CandidateKey string `json:"candidate_key"`
	PackID       string `json:"pack_id"`
	Status       string `json:"status"`
}

func pipItems(t *testing.T) []pipItem {
	t.Helper()
	var list struct {
		Items []pipItem `json:"items"`
	}
	if err := get(t, "/api/pip/requests").Into(&list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func setSecret(ctx context.Context, prefix string, i int) (api.Answer, error) {
	return suite.api.Post(ctx, "/api/secrets/set", map[string]any{"key": fmt.Sprintf("%s%d", prefix, i), "value": "v"})
}

func hasSecret(t *testing.T, prefix string, i int) bool {
	t.Helper()
	return strings.Contains(string(get(t, "/api/secrets").Data), fmt.Sprintf(`"%s%d"`, prefix, i))
}
