package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/reread"
)

// A handshake after a change of the operator's authorities trusts those, and no longer those that they replaced.
func TestHandshakesTrustTheNewestAuthorities(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := t.TempDir()
	other, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, identity.CAFile)
	synctest.Test(t, func(t *testing.T) {
		file, err := authorities.Open("RUMI_EGRESS_CA_FILE", path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		v := &verification{file: file}
		trusts := func() bool {
			_, err := server.Certificate().Verify(x509.VerifyOptions{Roots: v.config().RootCAs, CurrentTime: server.Certificate().NotBefore.Add(time.Hour)})
			return err == nil
		}
		foreign, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			pem  []byte
			want bool
		}{{foreign, false}, {own, true}, {bytes.TrimPrefix(own, []byte("-----BEGIN")), true}, {foreign, false}} {
			if err := os.WriteFile(path, c.pem, 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(reread.Refresh)
			if got := trusts(); got != c.want {
				t.Errorf("trusts the server: %v, want %v, with\n%s", got, c.want, c.pem)
			}
		}
	})
}
