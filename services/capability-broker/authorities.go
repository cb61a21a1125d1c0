package main

import (
	"context"
	"fmt"

	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

// systemAuthorities is where Debian, and the image of this service with it, has the public certificate authorities.
const systemAuthorities = "/etc/ssl/certs/ca-certificates.crt"

// authorities makes the bundle of certificate authorities of packs, and what brings it up to date for a container that is
// started: nil without RUMI_EGRESS_CA_FILE. A container that runs keeps the bundle that it was started with.
func (b *broker) authorities() (bundle func() string, err error) {
	if b.cfg.EgressCAFile == "" {
		return nil, nil
	}
	file, err := authorities.Open("RUMI_EGRESS_CA_FILE", b.cfg.EgressCAFile, b.rt.Log)
	if err != nil {
		return nil, err
	}
	b.rt.ReadyWhen("certificate authorities", func(context.Context) error {
		return service.WithFix(file.Ready(), "mend the file that RUMI_EGRESS_CA_FILE names, then run: docker compose up --detach")
	})
	path := b.dir("capabilities", "egress-ca.pem")
	if err := container.WriteAuthorities(path, systemAuthorities, file.PEM()); err != nil {
		return nil, fmt.Errorf("RUMI_EGRESS_CA_FILE: %w", err)
	}
	return func() string {
		if err := container.WriteAuthorities(path, systemAuthorities, file.PEM()); err != nil {
			b.rt.Log.Error("could not write certificate authorities; the pack has those from before", "error", err)
		}
		return path
	}, nil
}
