package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
)

// asProcess makes the test binary run approval itself, at the address that it holds.
const asProcess = "APPROVAL_TEST_ADDRESS"

func TestMain(m *testing.M) {
	if address := os.Getenv(asProcess); address != "" {
		os.Exit(process(address))
	}
	os.Exit(m.Run())
}

func process(address string) int {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	rt, err := service.Start(context.Background(), api.Service, build, service.Options{Environ: os.Environ(), API: listener, Admin: admin, Logs: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = rt.Wait(context.Background())
	return 0
}

// Approval is killed at any moment of deciding, again and again. What it acknowledged must be there, what it says is
// approved must be whole, and no decision may be without its audit entry.
func TestKilledAtAnyMoment(t *testing.T) {
	const rounds = 15
	w := &world{Suite: servicetest.New(t, "approval"), t: t}
	w.check(os.MkdirAll(filepath.Join(w.UserData(), "pending"), 0o750))
	address := w.Release("approval")
	w.gateway = w.Peer("gateway", "approval")
	w.client = api.NewClient(w.Peer("pack-registry", "approval"))
	broker := api.NewClient(w.Peer("capability-broker", "approval"))

	boot := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(w.Environ("approval"), asProcess+"="+address, "RUMI_ECOSYSTEM="+w.Ecosystem(), "RUMI_LOG_LEVEL=error")
		cmd.Stderr = t.Output()
		w.check(cmd.Start())
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			// Calls of a service that is down would open the client's circuit breaker, which stays open for a second.
			if conn, err := net.Dial("tcp", address); err == nil {
				conn.Close()
				if _, err := w.call("GET", "/api/packs/nobody/status", nil); err != nil && strings.Contains(err.Error(), "Pack not found") {
					return cmd
				}
			}
			if time.Now().After(end) {
				t.Fatal("approval does not come up again")
			}
		}
	}

	cmd := boot()
	w.pack("demo")
	acknowledged := "pending"
	for round := range rounds {
		killed := make(chan struct{})
		delay := time.Duration(rand.IntN(25_000)) * time.Microsecond
		go func() { defer close(killed); time.Sleep(delay); _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		asked := acknowledged
		for i := 0; ; i++ {
			w.write(filepath.Join(w.Ecosystem(), "demo/backend/main.py"), fmt.Sprintf("print(%d, %d)\n", round, i))
			verb, status := "approve", "approved"
			if i%3 == 2 {
				verb, status = "reject", "blocked"
			}
			asked = status
			if _, err := w.call("POST", "/api/packs/demo/"+verb, nil); err != nil {
				break
			}
			acknowledged = status
		}
		<-killed
		cmd = boot()

		// The folder is as it was for the last decision that was asked for, so an approved pack is either that or,
		// if that decision was lost, one whose folder changed since.
		status := w.status("demo")
		if status == "modified" {
			status = "approved"
		}
		if status != acknowledged && status != asked {
			t.Fatalf("round %d: acknowledged %s, asked for %s, found %s", round, acknowledged, asked, status)
		}
		acknowledged = status
		if status != "pending" {
			w.checkKept(broker, round)
		}
	}
	w.check(cmd.Process.Kill())
	_ = cmd.Wait()
}

// checkKept fetches the approved tree and counts decisions in the history and in the audit log.
func (w *world) checkKept(broker *api.Client, round int) {
	w.t.Helper()
	answer, err := w.call("GET", "/api/packs/demo/status", nil)
	w.check(err)
	approval := answer["approval"].(map[string]any)
	if digest, ok := approval["digest"].(string); ok {
		body, err := broker.Tree(w.t.Context(), digest)
		w.check(err)
		w.check(tree.Receive(body, digest, filepath.Join(testenv.TempDir(w.t), "copy")))
		body.Close()
	}
	decided := 0
	for _, e := range approval["version_history"].([]any) {
		if action := e.(map[string]any)["action"]; action == "approved" || action == "rejected" {
			decided++
		}
	}
	audited := len(slices.DeleteFunc(w.entries("approval", "demo"), func(a string) bool { return a != "pack_approved" && a != "pack_rejected" }))
	if audited < decided {
		w.t.Fatalf("round %d: %d decisions, %d audit entries; want audited >= %v", round, decided, audited, decided)
	}
}
