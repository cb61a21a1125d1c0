// Package setup prepares a Rumi home: its folders with their owners and modes, the API token, the key of the secrets, the
// home id, and the certificates by which services know each other.
//
// It may run on a live home at any time: what is there stays as it is, but for owners and modes of the folders themselves,
// modes in packs and in services' folders that keep out whom they are for, and certificates that near their end.
package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/acl"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Services are those that get a certificate.
var Services = roster.Names()

// stateful are the services with a database, each in a folder that no other service sees.
var stateful = roster.Where(func(s roster.Service) bool { return s.Stateful })

// handlerUID is what runs in containers: nobody.
const handlerUID = 65534

// Config says what to prepare and for whom.
type Config struct {
	Home              string // the Rumi home: the folder that holds ecosystem/ and user_data/
	EgressSockets     string // the folder of the egress sockets
	CapabilitySockets string // the folder of the capability sockets
	UID, GID          int    // what the services run as
	EgressGID         int    // the group of the egress sockets
	CapabilityGID     int    // the group of the capability sockets
	Authorities       []Authorities
	RunDir            string // how the operator names the folder above both socket folders, for messages
	Now               time.Time
}

// Run prepares everything. It needs to be root, or to have CHOWN, DAC_OVERRIDE, FOWNER and FSETID.
func Run(cfg Config, log *slog.Logger) error {
	home, err := os.OpenRoot(cfg.Home)
	if err != nil {
		return fmt.Errorf("open the Rumi home: %w", err)
	}
	defer home.Close()
	var operator unix.Stat_t
	if err := unix.Stat(cfg.Home, &operator); err != nil {
		return fmt.Errorf("inspect the Rumi home: %w", err)
	}
	for _, d := range cfg.homeFolders(int(operator.Uid), int(operator.Gid)) {
		if err := d.ensure(home, log); err != nil {
			return err
		}
	}
	cfg.mendModes(home, log)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	if err := cfg.token(settings, int(operator.Gid), log); err != nil {
		return err
	}
	if err := cfg.secretsKey(settings, log); err != nil {
		return err
	}
	if err := cfg.authorities(settings, log); err != nil {
		return err
	}
	id, err := cfg.homeID(settings, int(operator.Gid), log)
	if err != nil {
		return err
	}
	if err := cfg.identities(filepath.Join(settings, "identity"), id, log); err != nil {
		return err
	}
	return cfg.socketFolders(id, log)
}

// homeFolders lists the folders of the home, parents first.
//
// The operator owns ecosystem/, what is to be imported and what handlers may be shown; the services own the rest, in the
// operator's group, so that the operator reads it without being root.
func (cfg Config) homeFolders(operatorUID, operatorGID int) []folder {
	shared := acl.List{Owner: 7, Group: 7, Other: 5, Groups: map[int]uint16{cfg.GID: 7}}
	if operatorUID != 0 {
		shared.Users = map[int]uint16{operatorUID: 7} // the operator may edit what a service has put there
	}
	// What handlers see of it is mounted; who else runs as nobody gets no further than this folder.
	granted := acl.List{Owner: 7, Group: 7, Groups: map[int]uint16{cfg.GID: 7}}
	grantedIn := acl.List{Owner: 7, Group: 7, Users: map[int]uint16{handlerUID: 7}, Groups: map[int]uint16{cfg.GID: 7}}
	if operatorUID != 0 {
		grantedIn.Users[operatorUID] = 7
	}
	imported := acl.List{Owner: 7, Group: 7, Groups: map[int]uint16{cfg.GID: 5}}

	own := func(path string) folder {
		return folder{path: "user_data" + path, uid: cfg.UID, gid: operatorGID, mode: 0o2750}
	}
	all := []folder{
		{path: "ecosystem", uid: operatorUID, gid: cfg.GID, mode: 0o2775, inherit: &shared},
		own(""),
		own("/approved"),
		own("/audit"),
		own("/capabilities"),
		own("/capabilities/handlers"),
		own("/capabilities/trees"),
		{path: "user_data/import", uid: operatorUID, gid: operatorGID, mode: 0o2770, access: &imported, inherit: &imported},
		own("/pack_backups"),
		own("/pack_staging"),
		own("/packs"),
		own("/pending"),
		own("/pip"),
		{path: "user_data/secrets", uid: cfg.UID, gid: operatorGID, mode: 0o700},
		own("/settings"),
		own("/settings/gateway"), // all of the settings that the gateway sees, beside its identity
		{path: "user_data/settings/" + secretsDir, uid: cfg.UID, gid: cfg.GID, mode: 0o700}, // all that the service secrets sees of them, beside its identity
		own("/settings/" + caDir),
		{path: "user_data/settings/" + caDir + "/egress", uid: cfg.UID, gid: cfg.GID, mode: 0o2750},
		{path: "user_data/settings/" + caDir + "/pip", uid: cfg.UID, gid: cfg.GID, mode: 0o2750},
		own("/settings/identity"),
		{path: "user_data/settings/identity/authority", mode: 0o700}, // root's: no service may issue certificates
		{path: "user_data/shared", uid: operatorUID, gid: operatorGID, mode: 0o2770, access: &granted, inherit: &grantedIn},
		own("/state"),
	}
	for _, name := range Services {
		all = append(all, folder{path: "user_data/settings/identity/" + name, uid: cfg.UID, gid: cfg.GID, mode: 0o700})
	}
	for _, name := range stateful {
		all = append(all, own("/state/"+name))
	}
	return all
}

// identities makes the authority and each service's certificate, and renews those that near their end. The authority's
// key stays in a folder that no service mounts.
func (cfg Config) identities(dir, home string, log *slog.Logger) error {
	authority, err := cfg.authority(dir, home, log)
	if err != nil || authority == nil {
		return err
	}
	authority.Home = home
	for _, name := range Services {
		own := filepath.Join(dir, name)
		if !authority.Current(name, own, cfg.Now) {
			if err := authority.Issue(name, own, cfg.Now); err != nil {
				return err
			}
			log.Info("certificate issued", "service", name)
		}
		for _, file := range []string{identity.CAFile, identity.CertFile, identity.KeyFile, identity.HomeFile} {
			if err := give(filepath.Join(own, file), cfg.UID, cfg.GID); err != nil {
				return err
			}
		}
	}
	return nil
}

// authority reads the certificate authority, or makes it where there is none. One that can't be read is made anew where no
// service has a certificate yet, such as after a first start that was cut off. Where all have theirs, these stay good and
// nothing is issued: authority is nil. Otherwise it is an error, since a second authority would part the services that run.
func (cfg Config) authority(dir, home string, log *slog.Logger) (*identity.Authority, error) {
	path := filepath.Join(dir, "authority")
	authority, err := identity.LoadAuthority(path)
	if err == nil {
		return authority, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		certified := 0
		for _, name := range Services {
			if id, err := identity.Load(filepath.Join(dir, name)); err == nil && id.Name == name && id.Home == home {
				certified++
			}
		}
		err = fmt.Errorf("the certificate authority in user_data/settings/identity/authority can't be used: %w. Restore its %s and %s from a backup. "+
			"Or have a new one made: remove both files, then run: docker compose up --detach --force-recreate", err, identity.CAFile, identity.KeyFile)
		switch certified {
		case 0:
			log.Warn("certificate authority made anew: no service has a certificate of the one that is there", "error", err.Error())
			if err := setAside(filepath.Join(path, identity.CAFile), filepath.Join(path, identity.KeyFile)); err != nil {
				return nil, fmt.Errorf("make authority: %w", err)
			}
		case len(Services):
			log.Error("no certificates can be renewed; those that the services have stay good until they end", "error", err.Error())
			return nil, nil
		default:
			return nil, err
		}
	}
	if authority, err = identity.NewAuthority(cfg.Now); err != nil {
		return nil, err
	}
	if err := authority.Save(path); err != nil {
		return nil, err
	}
	log.Info("certificate authority made", "path", path)
	return authority, nil
}

// setAside renames files that can't be used, those that are there.
func setAside(paths ...string) error {
	for _, path := range paths {
		if err := os.Rename(path, path+".unreadable"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// give changes the owner of a file that a library made as root, unless it is right: an earlier run may have ended between
// the two.
func give(path string, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("inspect %s: %w", path, err)
	}
	if int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	return nil
}
