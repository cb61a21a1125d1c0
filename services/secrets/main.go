package main

import (
	"context"
	"path/filepath"
	"time"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/secrets/internal/authority"
	"github.com/rumi-ai/rumi/services/secrets/internal/httpapi"
	"github.com/rumi-ai/rumi/services/secrets/internal/vault"
)

func main() { service.Main(api.Service, build) }

// config says nothing of where things lie: that follows from the folder user_data.
type config struct {
	CertificateLife identity.LifeSetting `env:"RUMI_CERTIFICATE_LIFE" envDefault:"2160h"` // of the services' certificates
}

func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	key := keyset.Watch(filepath.Join(rt.UserData, "settings", "secrets", "secrets_key"))
	rt.ReadyWhen("secrets key", func(context.Context) error {
		return service.WithFix(key.Ready(), "put user_data/settings/secrets_key back from a backup if it is not there, then run: docker compose up --detach")
	})
	v, err := vault.Open(ctx, filepath.Join(rt.UserData, "secrets"), key, rt.Audit, rt.Log, rt.Metrics)
	if err != nil {
		return err
	}
	rt.OnStop("vault", func(context.Context) error { return v.Close() })
	rt.ReadyWhenWritable("secrets", "secrets", filepath.Join(rt.UserData, "secrets"))
	certificates := authority.Open(filepath.Join(rt.UserData, "settings", "identity", "authority"), rt.Identity.Home,
		time.Duration(cfg.CertificateLife), rt.Log, rt.Audit, rt.Metrics)
	rt.Go("certificate authority", certificates.Run)
	rt.ReadyWhen("certificate authority", func(ctx context.Context) error {
		return service.WithFix(certificates.Ready(ctx), "put user_data/settings/identity/authority back from a backup; see docs/operations.md, Certificates")
	})
	rt.CertificatesBy(certificates.Own(rt.Identity))
	return httpapi.Serve(rt.Mux(), v, certificates)
}
