package journeys

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	replicasPack = "replicas"
	kills        = 3 // of the replica that serves the pack
	toggles      = 8 // changes of the grant after each kill
)

// event is a line that the pack prints: a request that failed, a time without answers, or a change of what it may reach.
type event struct {
	Way     string  `json:"way"`
	Failed  string  `json:"failed"`
	Gap     float64 `json:"gap"` // seconds
	Allowed *bool   `json:"allowed"`
	At      float64 `json:"at"` // seconds since 1970
}

// replica is one of the two egress-proxies.
type replica struct {
	id     string // of its container
	helper string // the id of the container in its network that is the upstream
}

// TestReplicas runs two egress-proxies, which share packs and grants. When one is killed, the other must serve its packs within a second, and
// a pack may lose no more than the request that was under way. A change of a grant that one replica answers must reach the other.
func TestReplicas(t *testing.T) {
	suite.reconfigure(t, []string{"e2e/journeys/testdata/upstream.yml"}, suite.upstreamSettings(t))
	if _, err := suite.compose(t.Context(), "up", "--detach", "--no-build", "--scale", "egress-proxy=2"); err != nil {
		t.Fatal(err)
	}
	ids, err := suite.containers(t.Context(), "egress-proxy")
	if err != nil || len(ids) != 2 {
		t.Fatalf("the replicas are %q, %v; want two", ids, err)
	}
	replicas := make([]*replica, len(ids))
	for i, id := range ids {
		replicas[i] = &replica{id: id, helper: suite.startUpstream(t, packImage, id)}
	}
	pack := files{}
	for _, name := range []string{"ecosystem.json", "backend/main.py"} {
		content, err := os.ReadFile(filepath.Join("testdata/replicas", name))
		if err != nil {
			t.Fatal(err)
		}
		pack[name] = string(content)
	}
	pack.copyToEcosystem(t, replicasPack)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if a, err := suite.api.Delete(ctx, "/api/packs/"+replicasPack); err != nil || a.Status != 200 {
			t.Errorf("the removal of the pack got %v, %v; want 200", a, err)
		}
	})
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+replicasPack+"/approve", nil)
	allow(t, false)
	post(t, "/api/containers/"+replicasPack+"/start", nil)
	eventually(t, "the pack's first request", func() bool { return len(observedChanges(events(t))) == 1 })

	var gaps, delays []time.Duration
	crossed := 0 // changes that went to the replica which doesn't serve the pack
	for round := range kills {
		serving := servingReplica(t, replicas)
		other := replicas[1-serving]
		before := len(events(t))
		was := replicas[serving].started(t)
		killed := time.Now()
		if err := suite.killContainer(t.Context(), replicas[serving].id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other replica to serve the pack", func() bool { return other.serves(t) })
		eventually(t, "the killed replica to come back", func() bool {
			now := replicas[serving].started(t)
			return now != was && strings.Contains(now, "true")
		})
		replicas[serving].helper = suite.startUpstream(t, packImage, replicas[serving].id) // a restarted container has a new network

		failures, gap := map[string]int{}, time.Duration(0)
		for _, e := range events(t)[before:] {
			switch {
			case e.Failed != "":
				failures[e.Way]++
				t.Logf("%s failed %v after the kill: %s", e.Way, e.time().Sub(killed).Round(time.Millisecond), e.Failed)
			case e.Gap > 0:
				gap = max(gap, time.Duration(e.Gap*float64(time.Second)))
			}
		}
		for way, n := range failures {
			if n > 1 {
				t.Errorf("kill %d: %d requests over %s failed, want one at most", round, n, way)
			}
		}
		gaps = append(gaps, gap)

		// A narrowed grant ends requests under way, so from here on requests may fail.
		for i := range toggles {
			allowed, seen, asked := i%2 == 0, len(observedChanges(events(t))), other.grantRequests(t)
			allow(t, allowed)
			answered := time.Now()
			eventually(t, "a change of the grant", func() bool { return len(observedChanges(events(t))) > seen })
			last := observedChanges(events(t))[seen]
			if *last.Allowed != allowed {
				t.Fatalf("the pack saw plain HTTP allowed: %v, want %v as granted", *last.Allowed, allowed)
			}
			if other.grantRequests(t) == asked {
				crossed++ // the serving replica got no request about grants, so the other one did
				delays = append(delays, max(0, last.time().Sub(answered)))
			}
		}
	}
	post(t, "/api/network/revoke", map[string]any{"pack_id": replicasPack, "reason": "the end"})
	eventually(t, "the revoke", func() bool {
		return slices.ContainsFunc(events(t), func(e event) bool { return strings.Contains(e.Failed, "Network grant is disabled") })
	})
	slices.Sort(gaps)
	t.Logf("without an answer after a kill: %v", gaps)
	if gaps[0] > time.Second { // the shortest one: the machine's other work may have lengthened the others
		t.Errorf("each takeover took %v or longer, want one of a second at most", gaps[0])
	}
	slices.Sort(delays)
	if len(delays) > 0 {
		t.Logf("%d of %d changes went to the other replica; the serving one followed after p50 %v, at most %v", crossed, kills*toggles, delays[len(delays)/2], delays[len(delays)-1])
	}
}

// allow grants the pack the HTTPS port of the upstream, and its plain HTTP port if plain is true.
func allow(t *testing.T, plain bool) {
	t.Helper()
	ports := []int{8443}
	if plain {
		ports = append(ports, 8081)
	}
	post(t, "/api/network/grant", map[string]any{"pack_id": replicasPack, "allowed_domains": []string{upstreamHost}, "allowed_ports": ports})
}

// events returns what the pack has printed.
func events(t *testing.T) (all []event) {
	t.Helper()
	for _, line := range containerLog(t, replicasPack) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("the pack printed %q, want JSON: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

func (e event) time() time.Time { return time.UnixMicro(int64(e.At * 1e6)) }

// observedChanges returns the events in which the pack saw a change of what it may reach.
func observedChanges(all []event) []event {
	return slices.DeleteFunc(slices.Clone(all), func(e event) bool { return e.Allowed == nil })
}

// servingReplica waits until a replica serves the pack, and returns its index.
func servingReplica(t *testing.T, replicas []*replica) (which int) {
	t.Helper()
	eventually(t, "one replica to serve the pack", func() bool {
		which = slices.IndexFunc(replicas, func(r *replica) bool { return r.serves(t) })
		return which >= 0
	})
	return which
}

// serves reports whether the replica answers requests of packs now: whether its count of requests grows within 50 ms. The pack sends
// requests all the time.
func (r *replica) serves(t *testing.T) bool {
	t.Helper()
	before := r.metrics(t, "rumi_egress_requests_total", "")
	time.Sleep(50 * time.Millisecond)
	return r.metrics(t, "rumi_egress_requests_total", "") != before
}

// started returns when the replica's container was started, and whether it runs, as Docker prints them.
func (r *replica) started(t *testing.T) string {
	t.Helper()
	out, err := suite.command(t.Context(), commandWait, "docker", "inspect", "--format", "{{.State.StartedAt}} {{.State.Running}}", r.id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// metrics returns the lines of the replica's metrics that begin with a name and contain a label.
func (r *replica) metrics(t *testing.T, name, label string) (found string) {
	t.Helper()
	const program = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
	out, err := suite.command(t.Context(), commandWait, "docker", "exec", r.helper, "python3", "-c", program)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, name) && strings.Contains(line, label) {
			found += line
		}
	}
	return found
}

// grantRequests returns the counters of POST /api/network/grant. They differ from an earlier result if the replica has answered one since.
func (r *replica) grantRequests(t *testing.T) string {
	t.Helper()
	return r.metrics(t, "http_server_request_duration_seconds_count", "/api/network/grant")
}
