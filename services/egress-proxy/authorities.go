package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/service"
)

// verification is the TLS configuration for connections to servers: the system's authorities and those of RUMI_EGRESS_CA_FILE. The
// file is read again when it changes, since operators renew authorities without a restart. Open connections stay open.
type verification struct {
	file *authorities.File // nil where the setting is unset

	mu  sync.Mutex
	pem string // the operator's authorities that tls was made with
	tls *tls.Config
}

func newVerification(rt *service.Runtime, cfg config) (*verification, error) {
	v := &verification{}
	var err error
	if cfg.CAFile != "" {
		if v.file, err = authorities.Open("RUMI_EGRESS_CA_FILE", cfg.CAFile, rt.Log); err != nil {
			return nil, err
		}
		rt.ReadyWhen("certificate authorities", func(context.Context) error {
			return service.WithFix(v.file.Ready(), "mend the file that RUMI_EGRESS_CA_FILE names, then run: docker compose up --detach")
		})
	}
	pem := v.operators()
	if v.tls, err = v.with(pem); err != nil {
		return nil, err
	}
	v.pem = string(pem)
	return v, nil
}

func (v *verification) operators() []byte {
	if v.file == nil {
		return nil
	}
	return v.file.PEM()
}

func (v *verification) with(pem []byte) (*tls.Config, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificate authorities: %w", err)
	}
	if pem != nil {
		roots.AppendCertsFromPEM(pem)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// config gives the configuration for the next handshake.
func (v *verification) config() *tls.Config {
	pem := v.operators()
	v.mu.Lock()
	defer v.mu.Unlock()
	if string(pem) != v.pem {
		if next, err := v.with(pem); err == nil { // if the system's can't be read, the configuration of before is used on
			v.tls, v.pem = next, string(pem)
		}
	}
	return v.tls
}
