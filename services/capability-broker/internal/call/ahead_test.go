package call_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
)

// meeting has the fetch of a secret and the writing of its entry wait for each other.
type meeting struct {
	*replica
	together         bool // neither ends before the other has begun
	fetching, writes chan struct{}
	full             error // of the disk
}

func (m *meeting) Value(ctx context.Context, key string) (string, error) {
	if m.together {
		close(m.fetching)
		if err := await(m.writes); err != nil {
			return "", err
		}
	}
	return m.replica.Value(ctx, key)
}

func (m *meeting) Write(ctx context.Context, e audit.Entry) error {
	if m.together && e.Success {
		close(m.writes)
		if err := await(m.fetching); err != nil {
			return err
		}
	}
	if m.full != nil {
		return m.full
	}
	return m.replica.Write(ctx, e)
}

func await(c chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the other one doesn't begin")
	}
}

func TestSecretIsFetchedWhileItsEntryIsWritten(t *testing.T) {
	m := &meeting{replica: newReplica(t, sqlite(t))}
	missing := false
	secrets := secretsFunc(func(ctx context.Context, key string) (string, error) {
		if missing {
			return "", fault.NotFound("Secret not found: %s", key)
		}
		return m.Value(ctx, key)
	})
	m.calls = call.New(call.Config{Gates: m, Grants: m.book, Handlers: m.trust, Runner: m, Builtins: builtin.NewTable(builtin.SecretsGet(secrets, 0, discard)),
		Audit: m, Log: discard, Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry()})
	m.grant("p", "secrets.get", `{"config": {"allowed_keys": ["KEY"]}}`)
	ask := func(together bool) reply {
		m.entries, m.together, m.fetching, m.writes = nil, together, make(chan struct{}), make(chan struct{})
		return m.ask("p", "secrets.get", `{"key": "KEY"}`)
	}
	said := func() (said []string) {
		for _, e := range m.entries {
			said = append(said, e.Action+map[bool]string{true: " yes", false: " no"}[e.Success])
		}
		return said
	}

	// A key that nobody had a value for yet is fetched first.
	if got := ask(false); !got.Success || !slices.Equal(said(), []string{"permission_secrets_get yes"}) {
		t.Errorf("first: %+v, %v", got, said())
	}
	if got := ask(true); !strings.Contains(string(got.Output), `"value"`) || !slices.Equal(said(), []string{"permission_secrets_get yes"}) {
		t.Errorf("together: %+v, %v", got, said())
	}

	m.full = errors.New("no space left")
	if got := ask(true); got.Success || got.ErrorType != "execution_error" || strings.Contains(string(got.Output), "value") {
		t.Errorf("a value came without its entry: %+v", got)
	}
	m.full = nil

	// One that has gone meanwhile leaves an entry too many, once.
	missing = true
	for _, want := range [][]string{
		{"permission_secrets_get yes", "capability_denied no", "permission_secrets_get no"},
		{"capability_denied no", "permission_secrets_get no"},
	} {
		if got := ask(false); !strings.Contains(string(got.Output), "access_denied") || !slices.Equal(said(), want) {
			t.Errorf("missing: %+v, %v; want %v", got, said(), want)
		}
	}
}

type secretsFunc func(ctx context.Context, key string) (string, error)

func (f secretsFunc) Value(ctx context.Context, key string) (string, error) { return f(ctx, key) }
