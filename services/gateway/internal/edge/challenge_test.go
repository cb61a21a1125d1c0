package edge

import (
	"net/http"
	"testing"

	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// A reason can't end the quoted text that it stands in, and add a challenge of its own.
func TestChallengeIsOneText(t *testing.T) {
	header := http.Header{"Authorization": {"Bearer x"}}
	got := challenge(header, &principal.RefusedError{Reason: "the group \"a\", Basic realm=\\\"x\r\nSet-Cookie: y"})
	want := `Bearer error="invalid_token", error_description="the group 'a', Basic realm=/'x  Set-Cookie: y"`
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
