package discovery

import (
	"slices"
	"testing"

	"github.com/go-kit/kit/sd"
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
		if got := directory.Instancer(name).(sd.FixedInstancer); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, bad := range []string{"approval", "=127.0.0.1:1", "approval=127.0.0.1", "a=b=c"} {
		if _, err := ParseStatic(bad); err == nil {
			t.Errorf("ParseStatic(%q) passed", bad)
		}
	}
}
