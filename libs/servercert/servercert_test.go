package servercert_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/reread"
	"github.com/rumi-ai/rumi/libs/servercert"
	"github.com/rumi-ai/rumi/libs/servercert/servercerttest"
)

func TestParse(t *testing.T) {
	ca := servercerttest.NewAuthority(t)
	now := time.Now()
	cert, key := ca.Issue("rumi.example.com", now.Add(-time.Hour), now.Add(time.Hour))
	_, other := ca.Issue("rumi.example.com", now.Add(-time.Hour), now.Add(time.Hour))
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakCert, weak := ca.IssueFor(weakKey, "rumi.example.com", now.Add(-time.Hour), now.Add(time.Hour))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		cert, key []byte
		want      string // "" for none
	}{
		"a pair":                       {cert, key, ""},
		"a chain":                      {join(cert, ca.PEM()), key, ""},
		"both in one file":             {join(cert, ca.PEM(), key), join(cert, ca.PEM(), key), ""},
		"text around":                  {join([]byte("subject=x\n"), cert), join([]byte("Bag Attributes\n"), key), ""},
		"another key":                  {cert, other, "not that of the first certificate"},
		"the authority first":          {join(ca.PEM(), cert), key, "must come first"},
		"swapped files":                {key, cert, "certificate's file holds no certificate"},
		"no key":                       {cert, cert, "key's file holds no key"},
		"empty":                        {nil, nil, "holds no certificate"},
		"a cut certificate":            {cert[:len(cert)-40], key, "holds no certificate"},
		"a cut chain":                  {join(cert, ca.PEM()[:200]), key, "cut off"},
		"a cut key":                    {cert, key[:len(key)-40], "holds no key"},
		"an encrypted key":             {cert, bytes.ReplaceAll(key, []byte("PRIVATE KEY"), []byte("ENCRYPTED PRIVATE KEY")), "passphrase"},
		"an RSA key of 1024 bits":      {weakCert, weak, "1024 bits"},
		"a certificate that is no DER": {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), key, "can't be used"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := servercert.Parse(c.cert, c.key)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A program that renews certificates replaces the two files one after the other, by writing, by rename, or by a link in a folder that leads to
// others. Whatever it does, a pair that fits is in force.
func TestFileIsReadAnew(t *testing.T) { synctest.Test(t, testFileIsReadAnew) }

func testFileIsReadAnew(t *testing.T) {
	dir := t.TempDir()
	ca := servercerttest.NewAuthority(t)
	now := time.Now()
	var keys []string
	issue := func(archive, name string, until time.Time) {
		t.Helper()
		cert, key := ca.Issue(name, now.Add(-2*time.Hour), until)
		keys = append(keys, strings.Split(string(key), "\n")[1])
		must(t, os.MkdirAll(filepath.Join(dir, archive), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, archive, "cert.pem"), cert, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, archive, "key.pem"), key, 0o600))
	}
	link := func(name, target string) {
		t.Helper()
		must(t, os.Symlink(target, filepath.Join(dir, name+".new")))
		must(t, os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)))
	}
	issue("1", "one.example", now.Add(time.Hour))
	issue("2", "two.example", now.Add(time.Hour))
	issue("old", "old.example", now.Add(-time.Hour))
	link("cert.pem", "1/cert.pem")
	link("key.pem", "1/key.pem")
	var log bytes.Buffer
	file, err := servercert.Open("RUMI_TLS_CERT_FILE, RUMI_TLS_KEY_FILE", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(name, problem string) {
		t.Helper()
		time.Sleep(reread.Refresh)
		if got := file.Current().Leaf.Subject.CommonName; got != name {
			t.Errorf("in force is %s, want %s", got, name)
		}
		if err := file.Ready(); (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("readiness is %v, want %q", err, problem)
		}
	}
	expect("one.example", "")
	link("cert.pem", "2/cert.pem")
	expect("one.example", "not that of the first certificate")
	link("key.pem", "2/key.pem")
	expect("two.example", "")
	must(t, os.WriteFile(filepath.Join(dir, "2/key.pem"), []byte("x"), 0o600))
	expect("two.example", "holds no key")
	link("cert.pem", "old/cert.pem")
	link("key.pem", "old/key.pem")
	expect("old.example", "ended on")
	link("cert.pem", "1/cert.pem")
	link("key.pem", "1/key.pem")
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"+servercert.ProblemSuffix), []byte("why\n"), 0o600))
	expect("one.example", "why")
	if got := log.String(); !strings.Contains(got, "two.example") {
		t.Errorf("the log is %s, want the new names", got)
	}
	for _, key := range keys {
		if strings.Contains(log.String(), key) {
			t.Errorf("a key is in the log: %s", log.String())
		}
	}
	if _, err := servercert.Open("RUMI_X", filepath.Join(dir, "none"), filepath.Join(dir, "key.pem"), nil); err == nil || !strings.Contains(err.Error(), "RUMI_X: ") {
		t.Errorf("a missing file: %v, want an error that names the setting", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
