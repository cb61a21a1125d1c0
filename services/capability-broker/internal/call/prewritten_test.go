package call_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
)

// meeting has the entry of a secret's fetch written while that is asked for.
type meeting struct {
	*replica
	asked bool  // and not answered
	early bool  // the last entry was written meanwhile
	full  error // of the disk
}

func (m *meeting) Value(ctx context.Context, key string, asked func()) (string, error) {
	m.asked = true
	asked()
	m.asked = false
	return m.replica.Value(ctx, key, nil)
}

func (m *meeting) Write(ctx context.Context, e audit.Entry) error {
	m.early = m.asked
	if m.full != nil {
		return m.full
	}
	return m.replica.Write(ctx, e)
}

func TestSecretIsFetchedWhileItsEntryIsWritten(t *testing.T) {
	m := &meeting{replica: newReplica(t, sqlite(t))}
	missing := false
	secrets := secretsFunc(func(ctx context.Context, key string, asked func()) (string, error) {
		value, err := m.Value(ctx, key, asked)
		if missing {
			return "", fault.NotFound("Secret not found: %s", key)
		}
		return value, err
	})
	m.calls = call.New(call.Config{Gates: m, Grants: m.grants, Handlers: m.trust, Runner: m, Builtins: builtin.NewTable(builtin.SecretsGet(secrets, 0, discard)),
		Audit: m, Log: discard, Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry()})
	m.grant("p", "secrets.get", `{"config": {"allowed_keys": ["KEY"]}}`)
	ask := func() reply {
		m.entries, m.early = nil, false
		return m.ask("p", "secrets.get", `{"key": "KEY"}`)
	}
	said := func() (said []string) {
		for _, e := range m.entries {
			said = append(said, e.Action+map[bool]string{true: " yes", false: " no"}[e.Success])
		}
		return said
	}

	// A key that had no value so far is fetched first.
	if got := ask(); !got.Success || m.early || !slices.Equal(said(), []string{"permission_secrets_get yes"}) {
		t.Errorf("the first read: got %+v with the entries %v, want the value fetched before one entry", got, said())
	}
	if got := ask(); !m.early || !strings.Contains(string(got.Output), `"value"`) || !slices.Equal(said(), []string{"permission_secrets_get yes"}) {
		t.Errorf("the second read: got %+v with the entries %v, want the value beside one entry", got, said())
	}

	m.full = errors.New("no space left")
	if got := ask(); got.Success || got.ErrorType != "execution_error" || strings.Contains(string(got.Output), "value") {
		t.Errorf("a value came without its entry: %+v", got)
	}
	m.full = nil

	// One that has gone meanwhile leaves an entry too many, once.
	missing = true
	for _, want := range [][]string{
		{"permission_secrets_get yes", "capability_denied no", "permission_secrets_get no"},
		{"capability_denied no", "permission_secrets_get no"},
	} {
		if got := ask(); !strings.Contains(string(got.Output), "access_denied") || !slices.Equal(said(), want) {
			t.Errorf("missing: %+v, %v; want %v", got, said(), want)
		}
	}
}

type secretsFunc func(ctx context.Context, key string, asked func()) (string, error)

func (f secretsFunc) Value(ctx context.Context, key string, asked func()) (string, error) {
	return f(ctx, key, asked)
}
