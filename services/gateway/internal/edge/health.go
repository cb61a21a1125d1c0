package edge

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// healthTimeout bounds how long a service may take to say that it is ready.
const healthTimeout = 2 * time.Second

type healthResponse struct {
	Status   string               `json:"status"` // ok, or degraded where a service isn't ready
	Services map[string]readiness `json:"services"`
}

type readiness struct {
	Ready bool   `json:"ready"`
	Error string `json:"error,omitzero"`
}

// health asks every service whether it is ready.
func (e *Edge) health(w http.ResponseWriter, r *http.Request, _ route.Class) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	answer := healthResponse{Status: "ok", Services: map[string]readiness{"gateway": {Ready: true}}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, peer := range e.peers {
		wg.Go(func() {
			state := readiness{Ready: true}
			answered, err := rpc.Call[service.Readiness](ctx, peer, http.MethodGet, "/internal/ready", nil)
			switch {
			case err != nil:
				state = readiness{Error: fault.Of(err).Message}
			case !answered.Ready:
				state = readiness{Error: "Not ready: " + failing(answered.Checks)}
			}
			mu.Lock()
			defer mu.Unlock()
			answer.Services[name] = state
			if !state.Ready {
				answer.Status = "degraded"
			}
		})
	}
	wg.Wait()
	return rpc.WriteData(w, answer)
}

// failing names the checks that aren't ok.
func failing(checks []service.Check) string {
	var names []string
	for _, c := range checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ")
}
