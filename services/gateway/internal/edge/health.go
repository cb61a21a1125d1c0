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

// lastAnswer knows when a service answered last. Requests that are proxied and health checks record it.
type lastAnswer struct {
	began time.Time
	at    atomic.Int64 // ns after began; 0 for never
}

func newLastAnswer() *lastAnswer { return &lastAnswer{began: time.Now()} }

func (l *lastAnswer) record() { l.at.Store(max(int64(time.Since(l.began)), 1)) }

// silence is a sentence about how long there was no answer.
func (l *lastAnswer) silence() string {
	last := time.Duration(l.at.Load())
	silent := (time.Since(l.began) - last).Round(time.Second)
	if last == 0 {
		return fmt.Sprintf("it has not answered since the gateway started %v ago", silent)
	}
	return fmt.Sprintf("it has not answered for %v", silent)
}

// health asks every service whether it is ready.
func (e *Edge) health(w http.ResponseWriter, r *http.Request, _ route.Class) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	answer := api.Health{Status: "ok", Services: map[string]api.Readiness{}, Backups: e.cfg.Backups(), Seals: e.cfg.Seals()}
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
			ready, err := declared.Call(ctx, peer, service.ReadyOf(name), struct{}{})
			if err != nil {
				keep(name, api.Readiness{Error: e.unanswered(name, err), Checks: []api.Check{}})
				return
			}
			e.lastAnswers[name].record()
			keep(name, wireReadiness(ready))
		})
	}
	wg.Go(func() { keep(roster.Gateway, wireReadiness(e.cfg.Readiness(ctx))) })
	wg.Wait()
	return rpc.WriteData(w, answer)
}

// unanswered is the error of a service that doesn't say whether it is ready: for how long it hasn't answered anything, and where its log is.
func (e *Edge) unanswered(name string, err error) string {
	if f := fault.Of(err); f.Kind != fault.KindUnavailable && f.Kind != fault.KindInternal {
		return f.Message // it did answer
	}
	return fmt.Sprintf("Service unavailable: %s: %s; see docker compose logs %s", name, e.lastAnswers[name].silence(), name)
}

// wireReadiness is a readiness as answers have it; the checks that fail are named in its error.
func wireReadiness(of service.Readiness) api.Readiness {
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
