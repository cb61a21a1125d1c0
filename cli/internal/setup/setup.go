// Package setup is what the commands `rumi init` (Run) and `rumi reconcile` (Reconcile) do. It prepares a Rumi home: folders with
// owners and modes, the API token, the key of the secrets, the home id, and the certificates by which services know each other.
//
// It is the only part of Rumi that runs as root, and it does so in folders where packs and the operator's programs write. So it
// follows no link there, and never removes or replaces a file that it didn't make.
//
// Run may be repeated at any time, also while the suite runs: existing files stay as they are, except for owners and modes of
// folders, modes in packs and in services' folders that keep out their users, and certificates that end soon.
//
// Read setup.go first (Run lists the steps, in order), then the file of each step; reconcile.go last.
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

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
	"github.com/rumi-ai/rumi/libs/acl"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Services are the names of the services; each gets a certificate.
var Services = roster.Names()

// stateful are the services with a database. Each has it in a folder that no other service mounts.
var stateful = roster.Where(func(s roster.Service) bool { return s.Stateful })

// handlerUID is the user that handlers run as in their containers: nobody.
const handlerUID = 65534

// Config says what to prepare and for whom.
type Config struct {
	Home              string        // the Rumi home: the folder that holds ecosystem/ and user_data/
	EgressSockets     string        // the folder of the egress sockets
	CapabilitySockets string        // the folder of the capability sockets
	UID, GID          int           // user and group that the services run as
	EgressGID         int           // the group of the egress sockets
	CapabilityGID     int           // the group of the capability sockets
	Authorities       []Authorities // the operator's own certificate authorities
	ServerCert        ServerCert    // the operator's certificate for the API
	CertificateLife   time.Duration // of the certificates that are issued; 0 is identity.MaxLife
	RunDir            string        // how the operator names the folder above both socket folders, for messages
	Now               time.Time     // decides whether certificates are renewed
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
	if err := cfg.ensureToken(settings, int(operator.Gid), log); err != nil {
		return err
	}
	if err := cfg.ensureGrafanaPassword(settings, int(operator.Gid), log); err != nil {
		return err
	}
	if err := cfg.ensureSecretsKey(settings, log); err != nil {
		return err
	}
	if err := cfg.copyAuthorities(settings, log); err != nil {
		return err
	}
	if err := cfg.ensureServerCert(settings, log); err != nil {
		return err
	}
	if err := cfg.ensurePolicy(settings, int(operator.Uid), int(operator.Gid), log); err != nil {
		return err
	}
	id, err := cfg.ensureHomeID(settings, int(operator.Gid), log)
	if err != nil {
		return err
	}
	if err := cfg.ensureTraceKey(settings, log); err != nil {
		return err
	}
	if err := cfg.ensureAuditKey(settings, id, int(operator.Gid), log); err != nil {
		return err
	}
	if err := cfg.issueCertificates(filepath.Join(settings, "identity"), id, log); err != nil {
		return err
	}
	return cfg.ensureSocketFolders(id, log)
}

// homeFolders lists the folders of the home, parents first.
//
// The operator owns ecosystem/, user_data/import and user_data/shared. The services own the rest, in the operator's group, so that
// the operator can read it without being root.
func (cfg Config) homeFolders(operatorUID, operatorGID int) []folder {
	shared := acl.List{Owner: 7, Group: 7, Other: 5, Groups: map[int]uint16{cfg.GID: 7}}
	if operatorUID != 0 {
		shared.Users = map[int]uint16{operatorUID: 7} // the operator may edit what a service has put there
	}
	// Parts of user_data/shared are mounted into handlers' containers, which run as nobody. The folder itself is closed to nobody, so
	// that no other process of that user on the host gets in; what is made in it is open to nobody.
	granted := acl.List{Owner: 7, Group: 7, Groups: map[int]uint16{cfg.GID: 7}}
	grantedIn := acl.List{Owner: 7, Group: 7, Users: map[int]uint16{handlerUID: 7}, Groups: map[int]uint16{cfg.GID: 7}}
	if operatorUID != 0 {
		grantedIn.Users[operatorUID] = 7
	}
	imported := acl.List{Owner: 7, Group: 7, Groups: map[int]uint16{cfg.GID: 5}}

	serviceFolder := func(path string) folder {
		return folder{path: "user_data" + path, uid: cfg.UID, gid: operatorGID, mode: 0o2750}
	}
	all := []folder{
		{path: "ecosystem", uid: operatorUID, gid: cfg.GID, mode: 0o2775, inherit: &shared},
		serviceFolder(""),
		serviceFolder("/approved"),
		serviceFolder("/audit"),
		serviceFolder("/audit_index"),
		{path: sealsDir, uid: cfg.UID, gid: operatorGID, mode: 0o2750}, // the sealer's alone, as the folder of its key
		serviceFolder("/capabilities"),
		serviceFolder("/capabilities/handlers"),
		serviceFolder("/capabilities/trees"),
		{path: "user_data/import", uid: operatorUID, gid: operatorGID, mode: 0o2770, access: &imported, inherit: &imported},
		serviceFolder("/monitoring"),
		serviceFolder("/monitoring/grafana"),
		serviceFolder("/monitoring/jaeger"),
		serviceFolder("/monitoring/prometheus"),
		serviceFolder("/pack_backups"),
		serviceFolder("/pack_staging"),
		serviceFolder("/packs"),
		serviceFolder("/pending"),
		serviceFolder("/pip"),
		{path: "user_data/secrets", uid: cfg.UID, gid: operatorGID, mode: 0o700},
		serviceFolder("/seal_status"),
		serviceFolder("/settings"),
		serviceFolder("/settings/" + grafanaDir),
		{path: "user_data/settings/" + auditlog.KeyDir, uid: cfg.UID, gid: cfg.GID, mode: 0o700},
		serviceFolder("/settings/gateway"),                                                  // with the gateway's identity all that it mounts of the settings
		{path: "user_data/settings/" + secretsDir, uid: cfg.UID, gid: cfg.GID, mode: 0o700}, // the same for the service secrets
		serviceFolder("/settings/" + caDir),
		{path: "user_data/settings/" + caDir + "/egress", uid: cfg.UID, gid: cfg.GID, mode: 0o2750},
		{path: "user_data/settings/" + caDir + "/pip", uid: cfg.UID, gid: cfg.GID, mode: 0o2750},
		{path: "user_data/settings/" + tlsDir, uid: cfg.UID, gid: cfg.GID, mode: 0o700},
		{path: "user_data/settings/" + packtrace.Dir, uid: cfg.UID, gid: cfg.GID, mode: 0o700},
		{path: "user_data/settings/" + policyDir, uid: cfg.UID, gid: cfg.GID, mode: 0o2750},
		serviceFolder("/settings/identity"),
		{path: "user_data/settings/identity/authority", uid: cfg.UID, gid: cfg.GID, mode: 0o700}, // the service secrets alone mounts it
		{path: "user_data/shared", uid: operatorUID, gid: operatorGID, mode: 0o2770, access: &granted, inherit: &grantedIn},
		serviceFolder("/state"),
		{path: "user_data/state/backup", mode: 0o700}, // root's: copies of databases while a backup is taken
		serviceFolder("/backup_status"),
	}
	for _, name := range Services {
		all = append(all, folder{path: "user_data/settings/identity/" + name, uid: cfg.UID, gid: cfg.GID, mode: 0o700})
	}
	for _, name := range stateful {
		all = append(all, serviceFolder("/state/"+name))
	}
	return all
}

// setAside renames files that can't be used, as far as they exist, to NAME.unreadable.
func setAside(paths ...string) error {
	for _, path := range paths {
		if err := os.Rename(path, path+".unreadable"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// chown changes the owner of a file that a library made as root, unless it is right already. It is done for existing files, too: an
// earlier run may have been interrupted between the two.
func chown(path string, uid, gid int) error {
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
