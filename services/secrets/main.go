package main

import (
	"context"
	"path/filepath"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/secrets/internal/httpapi"
	"github.com/rumi-ai/rumi/services/secrets/internal/vault"
)

func main() { service.Main(api.Service, build) }

// config is empty: where things lie follows from the folder user_data.
type config struct{}

func build(ctx context.Context, rt *service.Runtime, _ config) error {
	key := keyset.Watch(filepath.Join(rt.UserData, "settings", "secrets", "secrets_key"))
	rt.ReadyWhen("secrets key", func(context.Context) error {
		return service.WithFix(key.Ready(), "put user_data/settings/secrets_key back from a backup if it is not there, then run: docker compose up --detach")
	})
	v, err := vault.Open(ctx, filepath.Join(rt.UserData, "secrets"), key, rt.Audit, rt.Log)
	if err != nil {
		return err
	}
	rt.OnStop("vault", func(context.Context) error { return v.Close() })
	rt.ReadyWhen("secrets", service.WritableFolder(filepath.Join(rt.UserData, "secrets")))
	return httpapi.Serve(rt.Mux(), v)
}
