package main

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trustProgram prints which certificate authorities a pack's program has.
const trustProgram = `
import os, ssl, time
names = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"]
bundle = os.environ["RUMI_EGRESS_CA_FILE"]
print("named", {os.environ.get(name) for name in names} == {bundle})
trusted = ssl.create_default_context(cafile=bundle).get_ca_certs(binary_form=True)
print("operator's", open("/pack/server.der", "rb").read() in trusted, "public", len(trusted) > 20)
try:
    open(bundle, "w")
except OSError as error:
    print("read-only", error.errno)
print("done")
time.sleep(3600)
`

// Packs trust, for tunnels, the same authorities as the egress proxy trusts for requests.
func TestPacksTrustTheOperatorsAuthorities(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	certificate := server.Certificate()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.env["RUMI_EGRESS_CA_FILE"] = file
	w.start()
	w.write("p", map[string]string{
		"ecosystem.json":  `{"pack_id": "p", "pack_identity": "x", "version": "1", "entrypoint": "backend/main.py"}`,
		"backend/main.py": trustProgram,
		"server.der":      string(certificate.Raw),
	})
	w.gate("p", "pending", "")
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)
	var log string
	w.eventually("output", func() bool { log = w.logs("p"); return strings.Contains(log, "done") })
	for _, want := range []string{"named True", "operator's True public True", "read-only"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
}
