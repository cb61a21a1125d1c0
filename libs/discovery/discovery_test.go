package discovery

import (
	"io"
	"slices"
	"testing"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
)

func TestStatic(t *testing.T) {
	directory, err := ParseStatic("approval=127.0.0.1:1, secrets=[::1]:2,approval=127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]sd.FixedInstancer{
		"approval": {"127.0.0.1:1", "127.0.0.1:3"},
		"secrets":  {"[::1]:2"},
		"gateway":  {"gateway:8080"},
	} {
		if got := directory.Instancer(name).(fixed).FixedInstancer; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, bad := range []string{"approval", "=127.0.0.1:1", "approval=127.0.0.1", "a=b=c"} {
		if _, err := ParseStatic(bad); err == nil {
			t.Errorf("ParseStatic(%q) succeeds, want an error", bad)
		}
	}
}

// A peer's first call may come right after the peer was made.
func TestEndpointsAreThereAtOnce(t *testing.T) {
	factory := func(string) (endpoint.Endpoint, io.Closer, error) { return endpoint.Nop, nil, nil }
	for range 1000 {
		endpointer := sd.NewEndpointer(Static{}.Instancer("approval"), factory, log.NewNopLogger())
		if found, err := endpointer.Endpoints(); err != nil || len(found) != 1 {
			t.Fatalf("found %d endpoints, %v; want 1", len(found), err)
		}
	}
}
