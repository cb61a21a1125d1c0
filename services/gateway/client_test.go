package main

import (
	"context"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/api/client"
	"github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/access"
)

// The generated client works with a real gateway: tokens from making one to its end, views, and failures with their codes.
func TestClient(t *testing.T) {
	w := newWorld(t, nil)
	dial := func(token string) *client.Client {
		c, err := client.New("http://"+w.address, client.Token(token), client.Attempts(2))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	admin := dial(apiToken)
	issued, err := admin.Gateway.CreateToken(ctx, gateway.CreateTokenRequest{Name: "alice", Role: access.Viewer})
	if err != nil || issued.Metadata.Name != "alice" {
		t.Fatalf("got %+v, %v; want a token", issued.Metadata, err)
	}
	alice := dial(issued.Token)
	if self, err := alice.Gateway.Self(ctx); err != nil || self.Name != "alice" || self.Role != access.Viewer {
		t.Errorf("the token is of %+v, %v; want alice, a viewer", self, err)
	}
	if health, err := alice.Gateway.GetHealth(ctx); err != nil || !health.Services["gateway"].Ready {
		t.Errorf("the health is %+v, %v; want a gateway that is ready", health, err)
	}
	if _, err := alice.Gateway.RotateToken(ctx, gateway.RotateTokenRequest{TokenID: issued.Metadata.ID}); !client.IsCode(err, "not_allowed") {
		t.Errorf("a viewer who rotates a token got %v, want not_allowed", err)
	}
	if _, err := admin.Gateway.CreateToken(ctx, gateway.CreateTokenRequest{Name: "alice", Role: access.Viewer}); !client.IsCode(err, "token_name_taken") {
		t.Errorf("a second alice got %v, want token_name_taken", err)
	}
	began := time.Now()
	if _, err := admin.Secrets.List(ctx); !client.IsCode(err, "service_unavailable") || time.Since(began) < time.Second {
		t.Errorf("a service that is down got %v after %v, want service_unavailable after a second try", err, time.Since(began))
	}
	if revoked, err := admin.Gateway.RevokeToken(ctx, gateway.TokenRequest{TokenID: issued.Metadata.ID}); err != nil || !revoked.Revoked {
		t.Errorf("got %+v, %v; want the token revoked", revoked, err)
	}
	if _, err := alice.Gateway.Self(ctx); !client.IsCode(err, "unauthorized") {
		t.Errorf("a revoked token got %v, want unauthorized", err)
	}
}
