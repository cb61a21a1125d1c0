// Package deployment checks that docker-compose.yml agrees with the services that it starts.
package deployment

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/testenv"
)

const root = "../.."

// containerPaths are settings with paths and addresses inside a container. The mounts decide these, so an operator can't set them. Some have the
// name of a compose variable, too, which is the path on the host.
var containerPaths = []string{
	"RUMI_LISTEN", "RUMI_ADMIN_LISTEN", "RUMI_USER_DATA", "RUMI_IDENTITY_DIR", "RUMI_ECOSYSTEM", "RUMI_HOME",
	"RUMI_DOCKER_SOCKET", "RUMI_EGRESS_SOCK_DIR", "RUMI_CAPABILITY_SOCK_DIR", "RUMI_RUNTIME_DIR",
	"RUMI_INSTANCE", // the compose project's name
}

// userSettings are read only by services that start as root and then change their user. Compose starts the others as that user.
var userSettings = []string{"RUMI_UID", "RUMI_GID"}

// service is a service of docker-compose.yml, as far as the tests look at it.
type service struct {
	Environment map[string]*string `json:"environment"`
	User        string             `json:"user"`
	ReadOnly    bool               `json:"read_only"`
	Privileged  bool               `json:"privileged"`
	CapDrop     []string           `json:"cap_drop"`
	CapAdd      []string           `json:"cap_add"`
	SecurityOpt []string           `json:"security_opt"`
	Networks    map[string]any     `json:"networks"`
	NetworkMode string             `json:"network_mode"`
	DNS         []string           `json:"dns"`
	DNSSearch   []string           `json:"dns_search"`
	DependsOn   map[string]any     `json:"depends_on"`
	Image       string             `json:"image"`
	Profiles    []string           `json:"profiles"`
	MemLimit    string             `json:"mem_limit"`
	PidsLimit   int                `json:"pids_limit"`
	Healthcheck map[string]any     `json:"healthcheck"`
	Ports       []struct {
		HostIP    string `json:"host_ip"`
		Published string `json:"published"`
	} `json:"ports"`
	Volumes []struct {
		Source   string `json:"source"`
		Target   string `json:"target"`
		ReadOnly bool   `json:"read_only"`
	} `json:"volumes"`
}

// network is a network of docker-compose.yml.
type network struct {
	Internal   bool              `json:"internal"`
	DriverOpts map[string]string `json:"driver_opts"`
}

// composed returns the services of docker-compose.yml, by name, with no variable set: those of `docker compose up` with these profiles, "*" for all.
func composed(t *testing.T, profiles ...string) map[string]service {
	t.Helper()
	services, _ := project(t, profiles...)
	return services
}

// project returns the services and the networks of docker-compose.yml, as composed does.
func project(t *testing.T, profiles ...string) (map[string]service, map[string]network) {
	t.Helper()
	testenv.NeedsProgram(t, "docker") // with its compose plugin; an engine isn't asked
	args := []string{"compose", "--file", "docker-compose.yml"}
	for _, name := range profiles {
		args = append(args, "--profile", name)
	}
	cmd := exec.Command("docker", append(args, "config", "--format", "json")...)
	cmd.Dir = root
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "RUMI_") && !strings.HasPrefix(entry, "COMPOSE_") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker compose config: %v", err)
	}
	var found struct {
		Services map[string]service `json:"services"`
		Networks map[string]network `json:"networks"`
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	return found.Services, found.Networks
}

var setting = regexp.MustCompile(`env:"(RUMI_[A-Z_]+)`)

// settings returns the settings that the code in a folder reads.
func settings(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, match := range setting.FindAllSubmatch(code, -1) {
			found = append(found, string(match[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// names returns the names of the services in services/.
func names(t *testing.T) []string {
	t.Helper()
	dirs, err := os.ReadDir(filepath.Join(root, "services"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, dir := range dirs {
		all = append(all, dir.Name())
	}
	return all
}

// TestSettings compares each service with docker-compose.yml: every setting that it knows must be passed on, and no other, because it would refuse
// to start.
func TestSettings(t *testing.T) {
	services := composed(t)
	common := settings(t, "libs/service")
	for _, name := range names(t) {
		own := append(settings(t, "services/"+name), common...)
		passed := services[name].Environment
		for _, want := range own {
			_, ok := passed[want]
			if root := services[name].User == "0:0"; !ok && !slices.Contains(containerPaths, want) && (root || !slices.Contains(userSettings, want)) {
				t.Errorf("%s knows %s; docker-compose.yml doesn't pass it on", name, want)
			}
		}
		for got := range passed {
			if strings.HasPrefix(got, "RUMI_") && !slices.Contains(own, got) {
				t.Errorf("%s doesn't know %s, which docker-compose.yml passes on", name, got)
			}
		}
	}
}

// TestLeastPrivilege checks that each service has the networks, ports, mounts, user and capabilities that it needs, and no others.
func TestLeastPrivilege(t *testing.T) {
	holders := roster.Where(func(s roster.Service) bool { return s.DockerSocket })
	publishers := []string{"gateway", "grafana", "prometheus"}
	for name, s := range composed(t, "*") {
		if !s.ReadOnly || s.Privileged || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s is not confined: %+v; want it read-only, without capabilities or new privileges", name, s)
		}
		if _, ok := s.Networks["outside"]; ok != (name == "egress-proxy") {
			t.Errorf("%s: on the network that leads out: %v, want %v", name, ok, name == "egress-proxy")
		}
		if (len(s.Ports) > 0) != slices.Contains(publishers, name) {
			t.Errorf("%s publishes the ports %v, want only %v to publish", name, s.Ports, publishers)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes on %q, want 127.0.0.1", name, p.HostIP)
			}
		}
		holder := slices.Contains(holders, name)
		for _, v := range s.Volumes {
			if v.Target == "/var/run/docker.sock" && !holder {
				t.Errorf("%s mounts the Docker socket, want it only in %v", name, holders)
			}
		}
		if !slices.Contains(names(t), name) {
			continue
		}
		switch {
		case holder && (s.User != "0:0" || !slices.Equal(s.CapAdd, []string{"SETUID", "SETGID"})):
			t.Errorf("%s starts as %s with %v, want 0:0 with SETUID and SETGID", name, s.User, s.CapAdd)
		case !holder && (s.User != "1099:1099" || len(s.CapAdd) > 0):
			t.Errorf("%s runs as %s with %v, want 1099:1099 with nothing", name, s.User, s.CapAdd)
		}
		// A service writes the certificates that it renews. The key of their authority is for secrets alone.
		const identities = "/rumi/user_data/settings/identity/"
		for _, v := range s.Volumes {
			own := v.Target == identities+name || v.Target == identities+"authority" && name == roster.Secrets
			if v.Target == "/rumi" || v.Target == "/rumi/user_data" || strings.HasPrefix(v.Target, "/rumi/user_data/settings") && !v.ReadOnly && !own ||
				strings.HasPrefix(v.Target, identities) && !own {
				t.Errorf("%s sees %s, read-only: %v; want only parts of user_data, and settings read-only but its identity", name, v.Target, v.ReadOnly)
			}
		}
	}
}

// TestSealsAreOutOfReach checks that no other service reaches the seals of the audit log or the key that signs them, that the sealer reaches no
// more than the log, its seals and its status, and that it is stopped after all that write there.
func TestSealsAreOutOfReach(t *testing.T) {
	const sealer = "audit-sealer"
	services := composed(t)
	mounts := map[string]bool{} // read-only, by target
	for _, v := range services[sealer].Volumes {
		mounts[v.Target] = v.ReadOnly
	}
	want := map[string]bool{"/rumi/user_data/audit": false, "/rumi/user_data/audit_log": false, "/rumi/user_data/seal_status": false, "/rumi/user_data/settings/audit_log": true}
	if !maps.Equal(mounts, want) || services[sealer].NetworkMode != "none" || services[sealer].User != "1099:1099" || len(services[sealer].CapAdd) > 0 {
		t.Errorf("%s is %+v; want the mounts %v, no network, no capabilities, and the services' user", sealer, services[sealer], want)
	}
	for _, name := range names(t) {
		if _, after := services[name].DependsOn[sealer]; !after {
			t.Errorf("%s doesn't depend on %s: its last entries wouldn't be sealed when the suite stops", name, sealer)
		}
		for _, v := range services[name].Volumes {
			if strings.Contains(v.Target, "audit_log") {
				t.Errorf("%s mounts %s, want no part of the seals", name, v.Target)
			}
		}
	}
}

// TestWhoKnowsPacksTraces checks that the key by which a pack's part in a trace is known is mounted by those that talk to packs, and by nobody else.
func TestWhoKnowsPacksTraces(t *testing.T) {
	for name, s := range composed(t) {
		mounted, talksToPacks := false, name == roster.EgressProxy || name == roster.CapabilityBroker
		for _, v := range s.Volumes {
			mounted = mounted || strings.HasPrefix(v.Target, "/rumi/user_data/settings/trace")
		}
		if mounted && !talksToPacks || talksToPacks && slices.Contains(names(t), name) && !mounted {
			t.Errorf("%s mounts the key of traces: %v, want %v", name, mounted, talksToPacks)
		}
	}
}

// TestWhoAsksOutside checks that only services on the network that leads out ask other DNS servers. Otherwise a name that no running service has
// would be asked outside. Docker's resolver answers for the names of running services.
func TestWhoAsksOutside(t *testing.T) {
	for name, s := range composed(t, "*") {
		_, outside := s.Networks["outside"]
		switch {
		case s.NetworkMode == "none":
		case outside && len(s.DNS) > 0:
			t.Errorf("%s asks the DNS servers %v, want the host's", name, s.DNS)
		case outside && !slices.Equal(s.DNSSearch, []string{"."}):
			t.Errorf("%s looks for names in the domains %v, want none: a name of the suite would be another machine's", name, s.DNSSearch)
		case !outside && !slices.Equal(s.DNS, []string{"127.0.0.1"}):
			t.Errorf("%s asks the DNS servers %v, want 127.0.0.1, which doesn't answer", name, s.DNS)
		}
	}
}
