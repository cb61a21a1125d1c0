package main

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
)

// Frames that are no requests get an answer that says so, and end their connection alone.
func TestBadFrames(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	for name, c := range map[string]struct {
		bytes []byte
		kind  string
		text  string
	}{
		"empty":        {make([]byte, 4), "protocol_error", "Empty request"},
		"one too long": {binary.BigEndian.AppendUint32(nil, 4<<20+1), "protocol_error", "Request too large (max: 4194304 bytes)"},
		"the longest":  {[]byte{255, 255, 255, 255}, "protocol_error", "Request too large (max: 4194304 bytes)"},
		"no JSON":      {append(binary.BigEndian.AppendUint32(nil, 3), "abc"...), "protocol_error", "Invalid JSON in request"},
		"no object":    {append(binary.BigEndian.AppendUint32(nil, 2), "[]"...), "protocol_error", "Invalid JSON in request"},
	} {
		conn := w.dial("p")
		if _, err := conn.Write(c.bytes); err != nil {
			t.Fatal(err)
		}
		frame, err := uds.ReadFrame(conn, 1<<20)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(frame, &got); err != nil || got["success"] != false || got["error_type"] != c.kind || got["error"] != c.text {
			t.Errorf("%s: got %s, %v; want %s %q", name, frame, err, c.kind, c.text)
		}
	}
	// 4 MiB are allowed, and many requests follow on one connection.
	conn := w.dial("p")
	big := []byte(`{"permission_id":"a.b","args":{"x":"` + strings.Repeat("x", 4<<20-100) + `"}}`)
	for range 3 {
		if got := conn.askRaw(big); got["error_type"] != "grant_denied" {
			t.Errorf("a big frame: got %v, want grant_denied", got)
		}
	}
	// Half a frame, then silence, disturbs no other pack; nor do connections beyond the bound.
	half := w.dial("p")
	if _, err := half.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		w.dial("p")
	}
	if got := w.dial("p").ask(map[string]any{"permission_id": "a.b"}); got["error_type"] != "grant_denied" {
		t.Errorf("behind 200 idle ones: got %v, want grant_denied", got)
	}
}

// A socket is there from approval on, stays while its pack is modified, and goes with the right to have one.
func TestSocketsFollowGates(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(nil))
	w.gate("p", "pending", "")
	time.Sleep(50 * time.Millisecond)
	if _, err := os.Lstat(w.socket("p")); err == nil {
		t.Error("a pending pack has a socket")
	}
	began := time.Now()
	digest := w.approve("p")
	if took := time.Since(began); took > time.Second {
		t.Errorf("the socket took %v, want at most 1s", took)
	}
	if info, err := os.Stat(w.socket("p")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode is %v, %v; want 0660", info.Mode(), err)
	}
	conn := w.dial("p")
	w.gate("p", "modified", digest)
	w.eventually("refusal", func() bool {
		conn.ask(map[string]any{"permission_id": "a.b"})
		e := w.audited("security", "capability_denied")
		return e[len(e)-1]["rejection_reason"] == "Pack is not approved (status: modified)"
	})
	w.gate("p", "blocked", digest)
	w.eventually("end of the socket", func() bool { _, err := os.Lstat(w.socket("p")); return err != nil })
	if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection of a blocked pack: %v; want its end", err)
	}
}

func TestRelaxedSocketModeIsAudited(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CAPABILITY_SOCKET_MODE"] = "0666"
	w.start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	if info, err := os.Stat(w.socket("p")); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket's mode is %v, %v; want 0666", info.Mode(), err)
	}
	if len(w.audited("security", "socket_mode_relaxed")) != 1 {
		t.Error("no entry socket_mode_relaxed")
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	good := config{SocketMode: "0660", SecurityMode: "strict", SecretRate: 60, StoreMax: 1, MaxTimeout: time.Minute, Workers: workerLimits{PerHandler: 1, Total: 1, Queue: 1, Idle: time.Minute}}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(c *config){
		"RUMI_CAPABILITY_SOCKET_MODE": func(c *config) { c.SocketMode = "0777" },
		"RUMI_SECURITY_MODE":          func(c *config) { c.SecurityMode = "lax" },
		"RUMI_AUDIT_REFUSALS":         func(c *config) { c.Refusals = -1 },
		"RUMI_SECRET_GET_RATE_LIMIT":  func(c *config) { c.SecretRate = -1 },
		"RUMI_CAPABILITY_RATE_LIMIT":  func(c *config) { c.CallRate = -1 },
		"RUMI_CAPABILITY_WORKER":      func(c *config) { c.Workers.Total = 0 },
		"RUMI_STORE_MAX_BYTES":        func(c *config) { c.StoreMax = 0 },
		"RUMI_CAPABILITY_MAX_TIMEOUT": func(c *config) { c.MaxTimeout = 121 * time.Second },
		"RUMI_PACK_DATA_MAX_MB":       func(c *config) { c.DataMaxMB = -1 },
		"RUMI_CONTAINER_MAX_PIDS":     func(c *config) { c.Ceiling.PIDs = 1 },
	} {
		c := good
		spoil(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got the error %[2]v, want one that names %[1]s", name, err)
		}
	}
}
