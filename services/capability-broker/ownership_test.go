package main

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// runs is a world with the pack p running, and its container's id.
func runs(t *testing.T) (w *world, id string) {
	t.Helper()
	w = newWorld(t).start()
	w.write("p", packFiles())
	w.approve("p")
	return w, w.must("POST", "/api/containers/p/start", nil)["container_id"].(string)
}

// alive is whether the engine has a container of that id with processes.
func (w *world) alive(id string) bool {
	engine := w.engine()
	defer engine.Close()
	c, err := engine.Inspect(w.t.Context(), id)
	return err == nil && c.Alive()
}

// Under another project's name the suite knows its containers, and closed gates end them.
func TestRenamedProject(t *testing.T) {
	w, id := runs(t)
	if err := w.broker.Stop(); err != nil {
		t.Fatal(err)
	}
	if !w.alive(id) {
		t.Fatal("the pack did not outlive a broker that restarts")
	}
	w.env["RUMI_INSTANCE"] = w.instance + "-renamed"
	w.start()
	w.eventually("it is found", func() bool { return w.status("p") == "running" && w.info("p")["container_id"] == id })
	w.gate("p", "modified", "")
	w.eventually("its gate ends it", func() bool { return !w.alive(id) })
	w.eventually("the entry of its end", func() bool { return len(w.audited("system", "container_stopped")) == 1 })
}

// Whatever became of a container with Docker's own tools, a stop, a gate and an uninstall reach it.
func TestNoContainerEscapes(t *testing.T) {
	for name, meddle := range map[string][]string{"renamed": {"rename", "ID", "ID-escaped"}, "paused": {"pause", "ID"}} {
		for by, end := range map[string]func(w *world){
			"stop": func(w *world) {
				if got := w.must("POST", "/api/containers/p/stop", nil); got["stopped"] != true {
					w.t.Errorf("stopped: %v, want true", got["stopped"])
				}
			},
			"gate": func(w *world) { w.gate("p", "blocked", "") },
			"uninstall": func(w *world) {
				if a := w.as("pack-registry", "DELETE", "/internal/packs/p", nil); a.data["container_stopped"] != true || a.data["container_removed"] != true {
					w.t.Errorf("uninstall: %v, want that a container was stopped and removed", a)
				}
			},
		} {
			t.Run(name+" "+by, func(t *testing.T) {
				t.Parallel()
				w, id := runs(t)
				args := make([]string, len(meddle))
				for i, arg := range meddle {
					args[i] = arg
					switch arg {
					case "ID":
						args[i] = id
					case "ID-escaped":
						args[i] = id[:12] + "-escaped"
					}
				}
				w.eventually(name, func() bool { // a kernel may fail to freeze what forks at the moment
					return exec.CommandContext(t.Context(), "docker", args...).Run() == nil
				})
				end(w)
				w.eventually("its end", func() bool { return !w.alive(id) })
			})
		}
	}
}

// A container that somebody made with the pack's labels ends, and the pack's own runs on.
func TestCopiedLabels(t *testing.T) {
	w, id := runs(t)
	out, err := exec.CommandContext(t.Context(), "docker", "run", "--detach", "--network", "none", "--entrypoint", "sleep", "--label", "io.rumi.kind=pack",
		"--label", "io.rumi.name=p", "--label", "io.rumi.pack_id=p", "--label", "io.rumi.home="+w.Identity("capability-broker").Home, packImage, "600").Output()
	if err != nil {
		t.Fatal(err)
	}
	copied := string(out[:64])
	w.eventually("the copy's end", func() bool { return !w.alive(copied) })
	if !w.alive(id) || w.info("p")["container_id"] != id {
		t.Errorf("the pack's own is %v, want %s alive", w.info("p"), id)
	}
	w.eventually("the entry of the copy's end", func() bool { return len(w.audited("security", "stray_container_removed")) == 1 })
}

// Packs end with the suite, outlive the broker alone, and run again with the next suite.
func TestPacksEndWithTheSuite(t *testing.T) {
	w, id := runs(t)
	var stopping sync.WaitGroup
	for _, server := range []interface{ Stop() error }{w.gatesBy, w.broker} {
		stopping.Go(func() {
			if err := server.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	stopping.Wait()
	if w.alive(id) {
		t.Fatal("the pack runs on without a suite")
	}
	w.restartApproval()
	w.start()
	w.eventually("it runs again", func() bool { return w.alive(id) })
	engine := w.engine()
	defer engine.Close()
	if all, err := engine.List(t.Context(), sandbox.Pack); err != nil || len(all) != 1 {
		t.Errorf("containers %+v, %v, want one", all, err)
	}
}

// A container that somebody made with the labels of a handler's container ends, and the handler's own goes on answering.
func TestCopiedLabelsOfAHandler(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"echo": echo}))
	w.approve("p")
	w.install("p")
	call := func() {
		t.Helper()
		if got := w.dial("p").ask(map[string]any{"permission_id": "test.echo"}); got["success"] != true {
			t.Fatalf("call: %v, want success", got)
		}
	}
	call()
	engine := w.engine()
	defer engine.Close()
	own, err := engine.List(t.Context(), sandbox.Handler)
	if err != nil || len(own) != 1 {
		t.Fatalf("handlers %+v, %v, want one", own, err)
	}
	labels, err := exec.CommandContext(t.Context(), "docker", "inspect", "--format", `{{range $name, $text := .Config.Labels}}{{$name}}={{$text}}{{"\n"}}{{end}}`, own[0].ID).Output()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "--detach", "--network", "none", "--entrypoint", "sleep"}
	for label := range strings.Lines(string(labels)) {
		if label = strings.TrimSpace(label); label != "" {
			args = append(args, "--label", label)
		}
	}
	out, err := exec.CommandContext(t.Context(), "docker", append(args, packImage, "600")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	copied := string(out[:64])
	t.Cleanup(func() {
		if err := engine.Remove(context.WithoutCancel(t.Context()), copied); err != nil {
			t.Error(err)
		}
	})
	w.eventually("the copy's end", func() bool { return !w.alive(copied) })
	call()
	if !w.alive(own[0].ID) {
		t.Error("the handler's own container was ended, want it alive")
	}
}
