package service_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// knock connects to a service and asks for something.
func knock(address string, cfg *tls.Config) error {
	conn, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return err
}

// security waits until the security log has n entries of an action, and returns its text.
func security(t *testing.T, suite *servicetest.Suite, action string, n int) string {
	t.Helper()
	text := ""
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		text = audittest.Text(t, filepath.Join(suite.UserData(), "audit"), "security")
		if strings.Count(text, `"action":"`+action+`"`) >= n {
			return text
		}
	}
	t.Errorf("want %d entries %s, got\n%s", n, action, text)
	return text
}

func TestARefusedConnectionIsAudited(t *testing.T) {
	suite, elsewhere := servicetest.New(t, "secrets"), servicetest.New(t)
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		route(rt.Mux())
		return nil
	}, nil)
	anonymous := suite.Identity("gateway").Client("secrets")
	anonymous.GetClientCertificate = nil
	foreign := suite.Identity("gateway").Client("secrets")
	foreign.GetClientCertificate = elsewhere.Identity("approval").Client("secrets").GetClientCertificate
	for _, c := range []struct {
		cfg  *tls.Config
		want []string
	}{
		{anonymous, []string{`"rejection_reason":"no_certificate"`, `"address":"127.0.0.1"`}},
		{foreign, []string{`"rejection_reason":"unknown_authority"`, `"claimed_service":"approval"`, identity.Serial(elsewhere.Identity("approval").Certificate())}},
	} {
		if err := knock(server.Address, c.cfg); err == nil {
			t.Errorf("%v: admitted, want it refused", c.want)
		}
		text := security(t, suite, "service_connection_denied", 1)
		for _, want := range c.want {
			for began := time.Now(); !strings.Contains(text, want) && time.Since(began) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
				text = audittest.Text(t, filepath.Join(suite.UserData(), "audit"), "security")
			}
			if !strings.Contains(text, want) {
				t.Errorf("the audit log lacks %s:\n%s", want, text)
			}
		}
	}
	if _, err := client.Call[string](t.Context(), suite.Peer("gateway", "secrets"), "GET", "/x", nil); err != nil {
		t.Errorf("a good caller afterwards: %v", err)
	}
}

// A service that is called and is another one, or of another authority, gets nothing, and leaves an entry of the caller.
func TestAPeerOfAnotherNameIsAudited(t *testing.T) {
	suite := servicetest.New(t, "secrets", "approval")
	var caller *service.Runtime
	servicetest.Start(suite, "approval", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		route(rt.Mux())
		return nil
	}, nil)
	servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		caller = rt
		route(rt.Mux())
		return nil
	}, map[string]string{"RUMI_PEERS": "gateway=" + suite.Address("approval")})
	if _, err := client.Call[string](t.Context(), caller.Peer("gateway"), "GET", "/x", nil); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("a call of what isn't the gateway: %v, want unavailable", err)
	}
	text := security(t, suite, "service_peer_denied", 1)
	for _, want := range []string{`"rejection_reason":"other_name"`, `"peer":"gateway"`, `"claimed_service":"approval"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the audit log lacks %s:\n%s", want, text)
		}
	}
}

func TestMetricsOfTheCertificate(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		route(rt.Mux())
		return nil
	}, nil)
	response, err := http.Get("http://" + server.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	ends := float64(suite.Identity("secrets").Certificate().NotAfter.Unix())
	for _, want := range []string{fmt.Sprintf("rumi_certificate_expiry_timestamp_seconds %g", ends), "rumi_certificates_denied 0"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
