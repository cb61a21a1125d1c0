package main

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/servercert"
	"github.com/rumi-ai/rumi/libs/service"
)

const (
	tlsSettings = "RUMI_TLS_CERT_FILE, RUMI_TLS_KEY_FILE"

	// endsSoon is the rest of a certificate's time in which the log says each day that it ends. Programs that renew certificates begin a
	// month before the end.
	endsSoon      = 14 * 24 * time.Hour
	endsSoonCheck = 24 * time.Hour
)

// serveTLS has the API served by HTTPS if the operator's certificate is set. Its files are read anew when they change.
//
// It speaks HTTP/1.1 only, which clients agree to by ALPN. In HTTP/2 all requests of a client share one connection, so that what bounds slow
// bodies and readers here, a connection's deadlines and its end, would end the other requests, too.
//
// No answer has Strict-Transport-Security: a browser applies it to all ports of the name, such as localhost, and this port speaks nothing
// but HTTPS anyhow.
func serveTLS(rt *service.Runtime, cfg config) error {
	if cfg.TLSCertFile == "" && cfg.TLSKeyFile == "" {
		return nil
	}
	if cfg.TLSCertFile == "" || cfg.TLSKeyFile == "" {
		return errors.New("read configuration: RUMI_TLS_CERT_FILE and RUMI_TLS_KEY_FILE belong together: set both, or neither for plain HTTP")
	}
	file, err := servercert.Open(tlsSettings, cfg.TLSCertFile, cfg.TLSKeyFile, rt.Log)
	if err != nil {
		return err
	}
	rt.ReadyWhen("TLS certificate", func(context.Context) error {
		return service.WithFix(file.Ready(), "mend or renew the files that RUMI_TLS_CERT_FILE and RUMI_TLS_KEY_FILE name; they are read anew by themselves")
	})
	rt.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate of the API ends, in Unix time.",
	}, func() float64 { return float64(file.Current().Leaf.NotAfter.Unix()) }))
	rt.Go("TLS certificate", func(ctx context.Context) error {
		return periodic.Run(ctx, endsSoonCheck, func(context.Context) {
			if leaf := file.Current().Leaf; time.Until(leaf.NotAfter) < endsSoon {
				rt.Log.Warn("the TLS certificate ends soon; was it renewed?", "ends", leaf.NotAfter, "names", leaf.DNSNames)
			}
		}, periodic.Immediately)
	})
	rt.PublicTLS(&tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return file.Current(), nil },
	})
	return nil
}
