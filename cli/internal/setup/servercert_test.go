package setup

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/servercert"
	"github.com/rumi-ai/rumi/libs/servercert/servercerttest"
)

// TestServerCertOfCertbot: links to versions, a folder that only root may enter, a renewal while the suite runs.
func TestServerCertOfCertbot(t *testing.T) {
	cfg := newHome(t)
	host := t.TempDir() // as /operator/host
	ca := servercerttest.NewAuthority(t)
	renew := func(version, name string) {
		t.Helper()
		cert, key := ca.Issue(name, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		archive, live := filepath.Join(host, "etc/letsencrypt/archive/x"), filepath.Join(host, "etc/letsencrypt/live/x")
		err := errors.Join(os.MkdirAll(archive, 0o700), os.MkdirAll(live, 0o700), os.Chmod(filepath.Join(host, "etc/letsencrypt/archive"), 0o700))
		for file, data := range map[string][]byte{"fullchain": cert, "privkey": key} {
			link := filepath.Join(live, file+".pem")
			err = errors.Join(err, os.WriteFile(filepath.Join(archive, file+version+".pem"), data, 0o600),
				os.Symlink("../../archive/x/"+file+version+".pem", link+".new"), os.Rename(link+".new", link))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(cfg.Home, "user_data/settings/tls/server.pem")
	named := func() string {
		data, err := os.ReadFile(copied)
		if err != nil {
			return ""
		}
		pair, err := servercert.Parse(data, data)
		if err != nil {
			t.Fatalf("the copy can't be used: %v", err)
		}
		return pair.Leaf.Subject.CommonName
	}
	renew("1", "one.example")
	cfg.ServerCert = ServerCert{Cert: "/etc/letsencrypt/live/x/fullchain.pem", Key: "/etc/letsencrypt/live/x/privkey.pem", Dir: "/etc/letsencrypt", Host: host}
	run(t, cfg)
	if got := named(); got != "one.example" {
		t.Fatalf("the copy is of %q, want one.example", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(copied, &st); err != nil || int(st.Uid) != serviceID || st.Mode&0o7777 != 0o600 {
		t.Errorf("the copy is of user %d with mode %o, %v; want the services' alone", st.Uid, st.Mode&0o7777, err)
	}
	stop := reconcile(t, cfg)
	renew("2", "two.example")
	until(t, "the renewed certificate isn't copied", func() bool { return named() == "two.example" })
	key := filepath.Join(host, "etc/letsencrypt/live/x/privkey.pem")
	if err := errors.Join(os.Remove(key), os.WriteFile(key, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	problem := copied + servercert.ProblemSuffix
	until(t, "what is wrong isn't noted", func() bool {
		text, _ := os.ReadFile(problem)
		return strings.Contains(string(text), "holds no key") && strings.Contains(string(text), "stays in force")
	})
	stop()
	if log := run(t, cfg); !strings.Contains(log, "holds no key") || named() != "two.example" {
		t.Errorf("with a bad key: log %s, copy %s; want the reason, and the old copy", log, named())
	}
	renew("3", "three.example")
	run(t, cfg)
	if _, err := os.Stat(problem); !errors.Is(err, os.ErrNotExist) || named() != "three.example" {
		t.Errorf("with good files again: %v, copy %s; want no problem and three.example", err, named())
	}
	cfg.ServerCert = ServerCert{}
	run(t, cfg)
	if _, err := os.Stat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key of settings that were unset is still there: %v", err)
	}
}

func TestServerCertSettings(t *testing.T) {
	host := t.TempDir()
	ca := servercerttest.NewAuthority(t)
	cert, key := ca.Issue("one.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	err := errors.Join(os.MkdirAll(filepath.Join(host, "srv/tls/now"), 0o755), os.WriteFile(filepath.Join(host, "srv/tls/now/cert.pem"), cert, 0o600),
		os.WriteFile(filepath.Join(host, "srv/tls/now/key.pem"), key, 0o600), os.Symlink("/srv/tls/now/key.pem", filepath.Join(host, "srv/tls/absolute.pem")),
		os.Symlink("/etc/passwd", filepath.Join(host, "srv/tls/out.pem")), os.Symlink("../../../../../etc/passwd", filepath.Join(host, "srv/tls/up.pem")),
		unix.Mkfifo(filepath.Join(host, "srv/tls/fifo"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		set  ServerCert
		want string
	}{
		"plain files":                   {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/now/key.pem", Dir: "/srv/tls"}, ""},
		"a folder with a slash":         {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/now/key.pem", Dir: "/srv/tls/"}, ""},
		"an absolute link":              {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/absolute.pem", Dir: "/srv/tls"}, ""},
		"relative to the compose file":  {ServerCert{Cert: "./srv/tls/now/cert.pem", Key: "./srv/tls/now/key.pem", Dir: "./srv/tls"}, ""},
		"no key":                        {ServerCert{Cert: "/srv/tls/now/cert.pem", Dir: "/srv/tls"}, "belong together"},
		"no certificate":                {ServerCert{Key: "/srv/tls/now/cert.pem", Dir: "/srv/tls"}, "belong together"},
		"no folder":                     {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/now/key.pem"}, "RUMI_TLS_DIR=/srv/tls/now"},
		"no folder, two folders":        {ServerCert{Cert: "/srv/tls/certs/a.pem", Key: "/srv/tls/private/a.key"}, "RUMI_TLS_DIR=/srv/tls"},
		"no folder, certbot":            {ServerCert{Cert: "/etc/letsencrypt/live/x/fullchain.pem", Key: "/etc/letsencrypt/live/x/privkey.pem"}, "RUMI_TLS_DIR=/etc/letsencrypt"},
		"files elsewhere":               {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/key.pem", Dir: "/srv/tls"}, "/srv/key.pem is not in RUMI_TLS_DIR"},
		"a name that begins the same":   {ServerCert{Cert: "/srv/tls2/cert.pem", Key: "/srv/tls/now/key.pem", Dir: "/srv/tls"}, "is not in RUMI_TLS_DIR"},
		"a missing file":                {ServerCert{Cert: "/srv/tls/none.pem", Key: "/srv/tls/now/key.pem", Dir: "/srv/tls"}, "no such file"},
		"a link that leads out":         {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/out.pem", Dir: "/srv/tls"}, "leads out of RUMI_TLS_DIR=/srv/tls"},
		"a link that leads out, upward": {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/up.pem", Dir: "/srv/tls"}, "leads out of RUMI_TLS_DIR=/srv/tls"},
		"a FIFO":                        {ServerCert{Cert: "/srv/tls/now/cert.pem", Key: "/srv/tls/fifo", Dir: "/srv/tls"}, "no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newHome(t)
			cfg.ServerCert = c.set
			cfg.ServerCert.Host = host
			err := Run(cfg, slog.New(slog.DiscardHandler))
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "RUMI_TLS_CERT_FILE")) {
				t.Errorf("got %v, want %q with the setting's name", err, c.want)
			}
		})
	}
}
