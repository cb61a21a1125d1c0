package certificates_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/cli/internal/certificates"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/roster"
)

// newHome is a home with a certificate for each service.
func newHome(t *testing.T) certificates.Home {
	t.Helper()
	home := certificates.Home{Path: t.TempDir()}
	settings := filepath.Join(home.Path, "user_data/settings")
	folder := func(name string) string {
		path := filepath.Join(settings, "identity", name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Save(folder("authority")); err != nil {
		t.Fatal(err)
	}
	for _, name := range roster.Names() {
		if err := authority.Issue(name, folder(name), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(settings, identity.HomeFile), []byte(authority.Home+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

func TestRevoke(t *testing.T) {
	home := newHome(t)
	before, err := home.List(time.Now())
	if err != nil || len(before) != len(roster.Names()) {
		t.Fatalf("listed %v, %v; want a certificate for each service", before, err)
	}
	next, revoked, err := home.Revoke("approval", time.Now)
	if err != nil || len(revoked) != 1 || revoked[0].Service != "approval" || next.Serial == revoked[0].Serial {
		t.Fatalf("revoked %v, the next is %v, %v; want approval's", revoked, next, err)
	}
	list, err := home.List(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, l := range list {
		states[l.Serial] = l.State
	}
	if states[next.Serial] != certificates.InUse || states[revoked[0].Serial] != certificates.Revoked || len(list) != len(before)+1 {
		t.Errorf("the list is %v, want the new certificate in use and the old one revoked", list)
	}
	for _, name := range roster.Names() {
		id, err := identity.Load(filepath.Join(home.Path, "user_data/settings/identity", name))
		if err != nil || len(id.Denied()) != 1 || id.Denied()[0].Serial != revoked[0].Serial {
			t.Errorf("%s refuses %v, %v; want the revoked certificate", name, id.Denied(), err)
		}
	}
	var table bytes.Buffer
	if err := certificates.Print(&table, list); err != nil {
		t.Fatal(err)
	}
	if text := table.String(); !strings.Contains(text, "SERVICE") || !strings.Contains(text, "revoked 2") || strings.Count(text, "in use") != len(roster.Names()) {
		t.Errorf("printed\n%s\nwant a line for each certificate", text)
	}
	if list, err := home.List(time.Now().Add(91 * 24 * time.Hour)); err != nil || len(list) != 0 {
		t.Errorf("after 91 days: %v, %v; want none", list, err)
	}
}

func TestRevokeSaysWhatIsWrong(t *testing.T) {
	home := newHome(t)
	for name, c := range map[string]struct {
		home          certificates.Home
		service, want string
	}{
		"no service": {home, "aproval", "approval, capability-broker"},
		"no home":    {certificates.Home{Path: t.TempDir()}, "approval", "docker compose up"},
	} {
		if _, _, err := c.home.Revoke(c.service, time.Now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if list, err := (certificates.Home{Path: t.TempDir()}).List(time.Now()); err == nil || !strings.Contains(err.Error(), "docker compose up") {
		t.Errorf("a home that init has not made lists %v, %v; want what to run", list, err)
	}
}
