package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"

	"github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/gateway/internal/oidc"
)

// openSignIns makes the verifier of sign-ins by OpenID Connect; nil where no issuer is set.
func openSignIns(rt *service.Runtime, cfg config) (*oidc.Verifier, error) {
	if cfg.OIDCIssuer == "" {
		if cfg.OIDCClientID != "" || cfg.OIDCRoles != "" {
			return nil, errors.New("read configuration: RUMI_OIDC_CLIENT_ID or RUMI_OIDC_ROLES is set, and RUMI_OIDC_ISSUER isn't")
		}
		return nil, nil
	}
	if cfg.OIDCClientID == "" || cfg.OIDCRoles == "" {
		return nil, errors.New("read configuration: RUMI_OIDC_ISSUER needs RUMI_OIDC_CLIENT_ID, and RUMI_OIDC_ROLES such as rumi-admins=admin,ops=operator")
	}
	roles, err := oidc.ParseRoles(cfg.OIDCRoles)
	if err != nil {
		return nil, err
	}
	proxy := egress.NewClient(rt.Peer(egress.Service))
	verifier := oidc.New(oidc.Config{
		Issuer: cfg.OIDCIssuer, ClientID: cfg.OIDCClientID, Groups: cmp.Or(cfg.OIDCGroups, "groups"), Roles: roles,
		Fetch: func(ctx context.Context) (oidc.Fetched, error) {
			keys, err := proxy.FetchKeys(ctx)
			return oidc.Fetched{Issuer: keys.Issuer, Keys: keys.Keys}, err
		},
		Path: filepath.Join(rt.UserData, "state", "oidc.json"), Audit: rt.Audit, Log: rt.Log,
	})
	rt.ReadyWhen("sign-ins", func(context.Context) error {
		return service.WithFix(verifier.Ready(), "see that egress-proxy reaches RUMI_OIDC_ISSUER; API tokens work meanwhile")
	})
	rt.Go("sign-ins", verifier.Run)
	return verifier, nil
}
