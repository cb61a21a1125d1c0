// Package certificates is what `rumi certificates` does: it lists the services' certificates, and revokes those of one service. It reads and
// writes the Rumi home, and needs neither the suite nor a network.
package certificates

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/roster"
)

// handover is how long a service has to take over its new certificate before the old ones are refused: it looks several times a second.
const handover = time.Second

// Home is the part of a Rumi home that the commands work on.
type Home struct {
	Path string        // the folder that holds user_data/
	Life time.Duration // of certificates that are issued; 0 is identity.MaxLife
}

func (h Home) identities() string        { return filepath.Join(h.Path, "user_data/settings/identity") }
func (h Home) folder(name string) string { return filepath.Join(h.identities(), name) }
func (h Home) authority() string         { return h.folder("authority") }

// Listed is a certificate that has not ended.
type Listed struct {
	Service   string    `json:"service"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	State     string    `json:"state"` // in use, replaced or revoked
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

// The states of a certificate. A replaced one is good until its end: connections that stand on it live on.
const (
	InUse    = "in use"
	Replaced = "replaced"
	Revoked  = "revoked"
)

// List are the certificates of all services that have not ended, by service and by their beginning.
func (h Home) List(now time.Time) ([]Listed, error) {
	if _, err := os.Stat(h.authority()); err != nil {
		return nil, explain(err)
	}
	all, err := identity.NewRegister(h.authority()).Read()
	if err != nil {
		return nil, explain(err)
	}
	inUse := map[string]bool{}
	for _, name := range roster.Names() {
		id, err := identity.Load(h.folder(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // init has not run yet
		}
		if err != nil {
			return nil, explain(err)
		}
		inUse[identity.Serial(id.Certificate())] = true
	}
	var list []Listed
	for _, i := range all {
		if now.After(i.NotAfter) {
			continue
		}
		one := Listed{Service: i.Service, Serial: i.Serial, NotBefore: i.NotBefore, NotAfter: i.NotAfter, State: Replaced, RevokedAt: i.RevokedAt}
		switch {
		case i.Revoked():
			one.State = Revoked
		case inUse[i.Serial]:
			one.State = InUse
		}
		list = append(list, one)
	}
	slices.SortStableFunc(list, func(a, b Listed) int { return strings.Compare(a.Service, b.Service) })
	return list, nil
}

// Print writes a list as a table.
func Print(w io.Writer, list []Listed) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSERIAL\tENDS\tSTATE")
	for _, l := range list {
		state := l.State
		if l.State == Revoked {
			state += " " + form(l.RevokedAt)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Service, l.Serial, form(l.NotAfter), state)
	}
	return table.Flush()
}

func form(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Revoke issues a new certificate for a service, and revokes all others that it has. The service takes the new one over at once. Within a
// second every service that runs refuses the others and has cut their connections: the list goes out by the service secrets, and is
// written to the folder of each service, so that it counts while secrets is down, too. It returns the new certificate and those revoked.
func (h Home) Revoke(service string, now func() time.Time) (next identity.Issued, revoked []identity.Issued, err error) {
	if !roster.Has(service) {
		return next, nil, fmt.Errorf("revoke: %q is no service; these are: %s", service, strings.Join(roster.Names(), ", "))
	}
	authority, err := identity.LoadAuthority(h.authority())
	if err != nil {
		return next, nil, explain(err)
	}
	if authority.Home, err = identity.ReadHome(filepath.Join(h.Path, "user_data/settings", identity.HomeFile)); err != nil {
		return next, nil, fmt.Errorf("revoke: %w", err)
	}
	authority.Life = h.Life
	cert, err := authority.IssueCertificate(service, h.folder(service), now())
	if err != nil {
		return next, nil, explain(err)
	}
	next = identity.Entry(cert)
	time.Sleep(handover)
	register := identity.NewRegister(h.authority())
	if revoked, err = register.Revoke(service, next.Serial, now()); err != nil {
		return next, nil, explain(err)
	}
	return next, revoked, h.share(register)
}

// share writes the list of revoked certificates to the folder of each service.
func (h Home) share(register identity.Register) error {
	all, err := register.Read()
	if err != nil {
		return err
	}
	denied := identity.DeniedOf(all)
	var problems []error
	for _, name := range roster.Names() {
		if err := identity.WriteDenied(h.folder(name), denied); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("the certificates are revoked, but services learn of it only from the service secrets: %w", err)
	}
	return nil
}

// explain adds to an error what to do about it.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; run: docker compose up --detach", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run it as root: docker compose run --rm rumi certificates …", err)
	}
	return err
}
