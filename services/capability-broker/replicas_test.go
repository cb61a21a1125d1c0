package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/service"
)

// asProcess makes the test binary run the broker itself, at the address that it holds.
const asProcess = "BROKER_TEST_ADDRESS"

func TestMain(m *testing.M) {
	if address := os.Getenv(asProcess); address != "" {
		os.Exit(process(address))
	}
	os.Exit(m.Run())
}

func process(address string) int {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		var rt *service.Runtime
		if rt, err = serve(listener, os.Environ(), os.Stderr); err == nil {
			_ = rt.Wait(context.Background())
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func serve(api net.Listener, environ []string, logs interface{ Write([]byte) (int, error) }) (*service.Runtime, error) {
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return service.Start(context.Background(), "capability-broker", build, service.Options{Environ: environ, API: api, Admin: admin, Logs: logs})
}

func (w *world) environ() []string {
	list := w.Environ("capability-broker")
	for key, value := range w.env {
		list = append(list, key+"="+value)
	}
	return list
}

// second starts a replica in this process and returns a function that asks it as the gateway does.
func (w *world) second() func(method, path string) (code int, data any) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	rt, err := serve(listener, w.environ(), w.t.Output())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := rt.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: w.Identity("gateway").Client("capability-broker"), DisableKeepAlives: true}}
	return func(method, path string) (int, any) {
		req, err := http.NewRequest(method, "https://"+listener.Addr().String()+path, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		response, err := client.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		defer response.Body.Close()
		var envelope struct{ Data any }
		if err := json.NewDecoder(response.Body).Decode(&envelope); err != nil {
			w.t.Fatal(err)
		}
		return response.StatusCode, envelope.Data
	}
}

// Two brokers on one host, the first a process of its own, which is killed in the middle of it all.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	address := w.Release("capability-broker")
	first := exec.Command(os.Args[0])
	first.Env = append(w.environ(), asProcess+"="+address)
	first.Stderr = t.Output()
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	killed := sync.OnceFunc(func() { _ = first.Process.Kill(); _ = first.Wait() })
	t.Cleanup(killed)
	w.eventually("the first broker", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	files := packFiles()
	for name, content := range handlerPack(map[string]string{"echo": echo}) {
		if name != "ecosystem.json" {
			files[name] = content
		}
	}
	w.write("p", files)
	w.approve("p")
	w.install("p")
	for _, id := range []string{"both", "closes"} {
		w.write(id, packFiles())
		w.approve(id)
	}
	w.must("POST", "/api/containers/p/start", nil)
	w.must("POST", "/api/containers/closes/start", nil)
	call := func() bool {
		conn, err := net.DialTimeout("unix", w.socket("p"), time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		return pipe{conn, t}.try(map[string]any{"permission_id": "test.echo"})
	}
	if !call() {
		t.Fatal("the first broker answers no call")
	}
	engine := w.engine()
	defer engine.Close()
	handlers := func() (names []string) {
		list, err := engine.List(t.Context(), sandbox.Handler)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			names = append(names, c.Name)
		}
		return names
	}
	ofFirst := handlers()

	other := w.second()
	containers := func() map[string]string {
		found := map[string]string{}
		_, data := other("GET", "/api/containers")
		for _, raw := range data.([]any) {
			c := raw.(map[string]any)
			found[c["pack_id"].(string)] = c["container_id"].(string) + " " + c["status"].(string)
		}
		return found
	}
	before := containers()
	if len(before) != 2 || !call() || !slices.Equal(handlers(), ofFirst) {
		t.Fatalf("after the second came: %v, handlers %v, before %v", before, handlers(), ofFirst)
	}

	// Both are asked for the same at the same time.
	var both sync.WaitGroup
	var ids [6]string
	for i := range ids {
		both.Go(func() {
			w.eventually("start", func() bool {
				if i%2 == 0 {
					ids[i], _ = w.api("POST", "/api/containers/both/start", nil).data["container_id"].(string)
				} else if _, data := other("POST", "/api/containers/both/start"); data != nil {
					ids[i], _ = data.(map[string]any)["container_id"].(string)
				}
				return ids[i] != ""
			})
		})
	}
	both.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("containers %q of one pack", ids)
		}
	}
	if n := len(w.audited("system", "container_started")); n != 3 {
		t.Errorf("%d starts are audited, want 3", n)
	}
	if code, _ := other("POST", "/api/containers/both/stop"); code != http.StatusOK {
		t.Errorf("the stop by the other replica got %d, want 200", code)
	}
	w.eventually("the first knows", func() bool { return w.status("both") == "exited" })

	died := time.Now()
	killed()
	w.eventually("the second answers calls", call)
	t.Logf("calls were answered again %v after the kill", time.Since(died))
	w.eventually("handlers of the dead are gone", func() bool {
		now := handlers()
		return len(now) == 1 && !slices.Contains(ofFirst, now[0])
	})
	if after := containers(); after["p"] != before["p"] {
		t.Errorf("the pack's container is %s, was %s", after["p"], before["p"])
	}
	w.gate("closes", "modified", "")
	pushed := time.Now()
	w.eventually("stop of a modified pack", func() bool {
		c, err := engine.Find(t.Context(), sandbox.Pack, "closes")
		return err == nil && len(c) == 1 && !c[0].Alive()
	})
	t.Logf("a pack that the dead had started was stopped %v after its gate closed", time.Since(pushed))
	w.eventually("both ends are audited", func() bool { return len(w.audited("system", "container_stopped")) == 2 })
}
