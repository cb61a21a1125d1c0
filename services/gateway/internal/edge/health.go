package edge

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/roster"
	declared "github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// healthTimeout bounds how long a service may take to say that it is ready.
const healthTimeout = 2 * time.Second

// contact knows when a service answered last.
type contact struct {
	began time.Time
	last  atomic.Int64 // ns after began; 0 for never
}

func newContact() *contact { return &contact{began: time.Now()} }

func (c *contact) answered() { c.last.Store(max(int64(time.Since(c.began)), 1)) }

// silence says for how long there was no answer.
func (c *contact) silence() string {
	last := time.Duration(c.last.Load())
	silent := (time.Since(c.began) - last).Round(time.Second)
	if last == 0 {
		return fmt.Sprintf("it has not answered since the gateway started %v ago", silent)
	}
	return fmt.Sprintf("it has not answered for %v", silent)
}

// health asks every service whether it is ready.
func (e *Edge) health(w http.ResponseWriter, r *http.Request, _ route.Class) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	answer := api.Health{Status: "ok", Services: map[string]api.Readiness{}}
	var mu sync.Mutex
	keep := func(name string, state api.Readiness) {
		mu.Lock()
		defer mu.Unlock()
		answer.Services[name] = state
		if !state.Ready {
			answer.Status = "degraded"
		}
	}
	var wg sync.WaitGroup
	for name, peer := range e.peers {
		wg.Go(func() {
			answered, err := declared.Call(ctx, peer, service.ReadyOf(name), struct{}{})
			if err != nil {
				keep(name, api.Readiness{Error: e.unanswered(name, err), Checks: []api.Check{}})
				return
			}
			e.contacts[name].answered()
			keep(name, shown(answered))
		})
	}
	wg.Go(func() { keep(roster.Gateway, shown(e.cfg.Readiness(ctx))) })
	wg.Wait()
	return rpc.WriteData(w, answer)
}

// unanswered says what is known of a service that doesn't say whether it is ready.
func (e *Edge) unanswered(name string, err error) string {
	if f := fault.Of(err); f.Kind != fault.KindUnavailable && f.Kind != fault.KindInternal {
		return f.Message // it did answer
	}
	return fmt.Sprintf("Service unavailable: %s: %s; see docker compose logs %s", name, e.contacts[name].silence(), name)
}

func shown(of service.Readiness) api.Readiness {
	state := api.Readiness{Ready: of.Ready, Version: of.Version, Uptime: of.Uptime, Checks: []api.Check{}}
	var failing []string
	for _, c := range of.Checks {
		state.Checks = append(state.Checks, api.Check(c))
		if !c.OK {
			failing = append(failing, c.Name)
		}
	}
	if !of.Ready {
		state.Error = "Not ready: " + strings.Join(failing, ", ")
	}
	return state
}
