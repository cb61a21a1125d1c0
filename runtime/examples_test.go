package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// owner answers the requests that come over a pack's socket, in place of egress-proxy or capability-broker.
type owner struct {
	answer func(request map[string]any) any

	mu       sync.Mutex
	requests []map[string]any
}

// listen makes the folder with a socket in it that a pack's container is shown.
func (o *owner) listen(t *testing.T) (dir string) {
	t.Helper()
	// t.TempDir's names may be too long for a socket's address.
	dir, err := os.MkdirTemp("", "rumi")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "rumi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "rumi.sock"), 0o666)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go o.serve(conn)
		}
	}()
	return dir
}

func (o *owner) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		length := binary.BigEndian.Uint32(head[:])
		if length == 0 || length > 4<<20 {
			return
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		var request map[string]any
		if json.Unmarshal(body, &request) != nil {
			return
		}
		o.mu.Lock()
		o.requests = append(o.requests, request)
		o.mu.Unlock()
		answer, err := json.Marshal(o.answer(request))
		if err != nil {
			return
		}
		if _, err := conn.Write(frame(answer)); err != nil {
			return
		}
	}
}

func (o *owner) seen() []map[string]any {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.requests)
}

type result map[string]any

func failure(errorType, text string) result {
	return result{"success": false, "error_type": errorType, "error": text, "output": nil, "latency_ms": 0}
}

// example runs an example pack as the broker does, until a line of its output says that it is done, and gives all lines.
func example(t *testing.T, name string, egress, capability *owner, done string) (lines []string, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	engine := testEngine(t)
	defer engine.Close()
	pack, err := filepath.Abs(filepath.Join("../examples/packs", name))
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := os.ReadFile(filepath.Join(pack, "ecosystem.json"))
	if err != nil {
		t.Fatal(err)
	}
	var declared struct{ Entrypoint string }
	if err := json.Unmarshal(descriptor, &declared); err != nil {
		t.Fatal(err)
	}
	data = t.TempDir()
	if err := os.Chmod(data, 0o777); err != nil {
		t.Fatal(err)
	}
	c, err := engine.Create(ctx, sandbox.Spec{
		Kind: sandbox.Pack, Name: strings.ToLower(rand.Text()), PackID: name, Image: packImage, Dir: "/pack",
		Command: []string{"rumi-runtime", "run", "--", declared.Entrypoint},
		Mounts: []sandbox.Mount{
			{Source: pack, Target: "/pack"}, {Source: data, Target: "/data", Writable: true},
			{Source: egress.listen(t), Target: "/run/rumi/egress"}, {Source: capability.listen(t), Target: "/run/rumi/capability"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Remove(context.WithoutCancel(ctx), c.ID); err != nil {
			t.Error(err)
		}
	}()
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	for line, err := range engine.Logs(ctx, c.ID, sandbox.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatalf("%v after %q", err, lines)
		}
		lines = append(lines, line.Text)
		if strings.HasPrefix(line.Text, done) {
			break
		}
	}
	// It stays, and goes when it is told to.
	if now, err := engine.Inspect(ctx, c.ID); err != nil || !now.Running() {
		t.Fatalf("it is %+v, %v, and said %q", now, err, lines)
	}
	if err := engine.Stop(ctx, c.ID, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if exit, err := engine.Wait(ctx, c.ID); err != nil || exit.Code != 0 {
		t.Errorf("it ended with %+v, %v; want 0", exit, err)
	}
	return lines, data
}

func TestForecast(t *testing.T) {
	const key = "a key that is in no log"
	egress := &owner{answer: func(request map[string]any) any {
		if request["url"] != "https://forecast.rumi.test:8443/v1/today" {
			return failure("grant_denied", "Network access denied: Domain 'elsewhere.rumi.test' not in allowed list")
		}
		return result{"success": true, "status_code": 200, "headers": result{}, "body": `{"place": "Kyoto", "high_c": 17}` + "\n"}
	}}
	capability := &owner{answer: func(map[string]any) any {
		return result{"success": true, "output": result{"success": true, "value": key}}
	}}
	lines, data := example(t, "forecast", egress, capability, "DONE")
	want := []string{
		"KEY FORECAST_API_KEY: read", `FORECAST 200 {"place": "Kyoto", "high_c": 17}`, "KEPT /data/today.json",
		"REFUSED https://elsewhere.rumi.test/ grant_denied: Network access denied: Domain 'elsewhere.rumi.test' not in allowed list", "DONE",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("it said %q, want %q", lines, want)
	}
	if kept, err := os.ReadFile(filepath.Join(data, "today.json")); err != nil || string(kept) != `{"place": "Kyoto", "high_c": 17}` {
		t.Errorf("it kept %q, %v; want Kyoto's 17", kept, err)
	}
	if asked := capability.seen(); len(asked) != 1 || asked[0]["permission_id"] != "secrets.get" || fmt.Sprint(asked[0]["args"]) != "map[key:FORECAST_API_KEY]" {
		t.Errorf("it asked the capability socket %v", asked)
	}
	if asked := egress.seen(); len(asked) != 2 || asked[0]["headers"].(map[string]any)["Authorization"] != "Bearer "+key || fmt.Sprint(asked[1]["headers"]) != "map[]" {
		t.Errorf("it asked the egress socket %v", asked)
	}
}

func TestForecastWithoutGrants(t *testing.T) {
	refuse := func(map[string]any) any { return failure("grant_denied", "Permission denied") }
	lines, _ := example(t, "forecast", &owner{answer: refuse}, &owner{answer: refuse}, "NOT DONE")
	if !strings.HasPrefix(lines[0], "KEY FORECAST_API_KEY: none") {
		t.Errorf("it printed %q, want that it has no key", lines)
	}
}

// The hostile pack finds no way out of the sandbox. That of its attempts which go over the sockets are refused rightly is
// for those who own them to show; here everything is.
func TestEscapeArtist(t *testing.T) {
	egress := &owner{answer: func(map[string]any) any {
		return failure("grant_denied", "Network access denied: No network grant for this pack")
	}}
	capability := &owner{answer: func(map[string]any) any { return failure("grant_denied", "Permission denied") }}
	lines, data := example(t, "escape_artist", egress, capability, "RESULT: ")
	attempts := regexp.MustCompile(`^ATTEMPT [a-z0-9_.]+: (blocked|ESCAPED)`)
	last := len(lines) - 1
	for _, line := range lines[:last] {
		if m := attempts.FindStringSubmatch(line); m == nil || m[1] != "blocked" {
			t.Errorf("the attack says %q, want that it was blocked", line)
		}
	}
	if want := fmt.Sprintf("RESULT: %d attempts, 0 escaped", last); last < 100 || lines[last] != want {
		t.Errorf("it ended with %q, want %q", lines[last], want)
	}
	if len(egress.seen()) < 30 || len(capability.seen()) < 8 {
		t.Errorf("%d and %d requests came over its sockets", len(egress.seen()), len(capability.seen()))
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("it left %v in /data, %v", left, err)
	}
}
