package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestReadsByResult: each value that is asked for is counted by what became of that.
func TestReadsByResult(t *testing.T) {
	suite, server := start(t)
	reads := func(ok, notFound, damaged, failed float64) map[string]float64 {
		return map[string]float64{
			`rumi_secret_reads_total{result="ok"}`: ok, `rumi_secret_reads_total{result="not_found"}`: notFound,
			`rumi_secret_reads_total{result="damaged"}`: damaged, `rumi_secret_reads_total{result="failed"}`: failed,
		}
	}
	value := func(key string) {
		call(t, suite, "capability-broker", "POST", "/internal/secrets/value", fmt.Sprintf(`{"key":%q}`, key))
	}
	server.WantValues(t, "at first", reads(0, 0, 0, 0))
	call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"A","value":"x"}`)
	value("A")
	value("A")
	value("NEVER")
	value("not a key")
	server.WantValues(t, "read", reads(2, 2, 0, 0))
	if err := os.WriteFile(filepath.Join(suite.UserData(), "secrets", "A.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	value("A")
	server.WantValues(t, "damaged", reads(2, 2, 1, 0))
	call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"B","value":"x"}`)
	if err := os.Remove(filepath.Join(suite.UserData(), "settings", "secrets", "secrets_key")); err != nil {
		t.Fatal(err)
	}
	value("B")
	server.WantValues(t, "without the key", reads(2, 2, 1, 1))
}

// TestSecretsAreCounted: as they lie in the folder, also those that others change.
func TestSecretsAreCounted(t *testing.T) {
	suite, server := start(t)
	for _, key := range []string{"A", "B", "C"} {
		call(t, suite, "gateway", "POST", "/api/secrets/set", fmt.Sprintf(`{"key":%q,"value":"x"}`, key))
	}
	call(t, suite, "gateway", "POST", "/api/secrets/delete", `{"key":"B"}`)
	server.Eventually(t, "two of three", map[string]float64{"rumi_secrets": 2, "rumi_secrets_damaged": 0})
	if err := os.WriteFile(filepath.Join(suite.UserData(), "secrets", "A.json"), []byte(`{"cut`), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Eventually(t, "one damaged", map[string]float64{"rumi_secrets": 1, "rumi_secrets_damaged": 1})
	call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"A","value":"again"}`)
	server.Eventually(t, "set again", map[string]float64{"rumi_secrets": 2, "rumi_secrets_damaged": 0})
}

// TestCertificatesAreCounted: each that is asked for, by what became of that, and when the authority ends.
func TestCertificatesAreCounted(t *testing.T) {
	suite, server := start(t)
	before := server.Values(t) // the service may have its own renewed
	const ok, refused = `rumi_certificates_issued_total{result="ok"}`, `rumi_certificates_issued_total{result="refused"}`
	call(t, suite, "approval", "POST", "/internal/certificates", request(t, &x509.CertificateRequest{}))
	call(t, suite, "approval", "POST", "/internal/certificates", request(t, &x509.CertificateRequest{DNSNames: []string{"gateway"}}))
	call(t, suite, "approval", "POST", "/internal/certificates", `{"request": "AAAA"}`)
	server.WantValues(t, "one good, one of another name, one that is none", map[string]float64{
		ok: before[ok] + 1, refused: before[refused] + 2, `rumi_certificates_issued_total{result="failed"}`: 0,
	})
	if ends := server.Values(t)["rumi_authority_expiry_timestamp_seconds"]; ends < 1.7e9 {
		t.Errorf("the authority ends at %v, want a time in years", ends)
	}
}

// TestNamesOfSecretsMakeNoSeries: whatever keys are asked for, no time series comes of it.
func TestNamesOfSecretsMakeNoSeries(t *testing.T) {
	suite, server := start(t)
	server.WantNoNewSeries(t, func() {
		for i := range 300 {
			call(t, suite, "capability-broker", "POST", "/internal/secrets/value", fmt.Sprintf(`{"key":"KEY_%d"}`, i))
			call(t, suite, "gateway", "POST", "/api/secrets/set", fmt.Sprintf(`{"key":"bad %d","value":"x"}`, i))
		}
	})
}
