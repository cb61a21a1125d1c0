package uninstall_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/uninstall"
)

// broker stands for all that has something of a pack. It notes in which order it was asked.
type broker struct {
	steps   []string
	failing error
}

func (b *broker) step(name string) error { b.steps = append(b.steps, name); return b.failing }

type (
	sockets    struct{ *broker }
	grants     struct{ *broker }
	handlers   struct{ *broker }
	logs       struct{ *broker }
	containers struct{ *broker }
)

func (s sockets) Remove(string)                                       { _ = s.step("socket") }
func (b *broker) EndPack(string)                                      { _ = b.step("workers") }
func (b *broker) CatchUp(context.Context, string) error               { return b.step("gate") }
func (g grants) RemovePrincipal(context.Context, string) (int, error) { return 1, g.step("grants") }
func (h handlers) RemovePack(context.Context, string) (bool, error)   { return false, h.step("handlers") }
func (l logs) RemovePack(string) error                                { return l.step("logs") }
func (c containers) RestoreData(context.Context, string) (string, error) {
	return "aside", c.step("data")
}
func (c containers) Remove(context.Context, string) (container.Removed, error) {
	return container.Removed{Container: true, Running: true, Data: "aside"}, c.step("container")
}

func service(b *broker) *uninstall.Service {
	return &uninstall.Service{Sockets: sockets{b}, Workers: b, Gates: b, Grants: grants{b}, Handlers: handlers{b}, Logs: logs{b}, Containers: containers{b}}
}

// No grant may follow RemovePrincipal, so the gate must be known before; and no step that fails keeps another from being taken.
func TestEveryStepIsTakenInOrder(t *testing.T) {
	for _, failing := range []error{nil, errors.New("down")} {
		b := &broker{failing: failing}
		done, err := service(b).Remove(t.Context(), "p")
		if !errors.Is(err, failing) {
			t.Errorf("error %v, want %v", err, failing)
		}
		if want := []string{"socket", "workers", "gate", "grants", "handlers", "logs", "container"}; !slices.Equal(b.steps, want) {
			t.Errorf("steps %v, want %v", b.steps, want)
		}
		want := api.Removal{GrantsRemoved: true, ContainerRemoved: true, ContainerStopped: true, DataPath: "aside"}
		if done != want {
			t.Errorf("removal %+v, want %+v", done, want)
		}
	}
}

func TestDataIsRestored(t *testing.T) {
	b := &broker{}
	got, err := service(b).RestoreData(t.Context(), "p")
	if want := (api.RestoredData{Path: "aside"}); err != nil || got != want {
		t.Errorf("restored %+v, %v, want %+v", got, err, want)
	}
}
