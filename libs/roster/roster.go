// Package roster declares the services of the suite, once. Whatever lists services (certificates, compose file, images, the names
// that packs may not reach, routes, documents) reads this list, or a test compares it with this list.
//
// To add a service, add it here and run the tests: they name each file that lacks it.
package roster

// The names of the services. A service has its name in its certificate, in RUMI_PEERS, as its host name in the compose network and
// as the folder of its code under services/.
const (
	Approval         = "approval"
	CapabilityBroker = "capability-broker"
	EgressProxy      = "egress-proxy"
	Gateway          = "gateway"
	PackRegistry     = "pack-registry"
	PipInstaller     = "pip-installer"
	Secrets          = "secrets"
)

// Service has the facts about a service that others need before it runs.
type Service struct {
	Name         string
	Stateful     bool // it has a database, in a folder user_data/state of its own
	DockerSocket bool // its container holds the socket of the Docker engine
	Outside      bool // its container is on the network that leads out of the suite
	Published    bool // its container publishes a port on the host
	StoresFiles  bool // it answers GET /internal/storage with the disk space that its files take
}

// services are sorted by name.
var services = []Service{
	{Name: Approval, Stateful: true, StoresFiles: true},
	{Name: CapabilityBroker, Stateful: true, DockerSocket: true, StoresFiles: true},
	{Name: EgressProxy, Stateful: true, Outside: true},
	{Name: Gateway, Stateful: true, Published: true},
	{Name: PackRegistry, Stateful: true, StoresFiles: true},
	{Name: PipInstaller, Stateful: true, DockerSocket: true, StoresFiles: true},
	{Name: Secrets},
}

// Services are all services of the suite, sorted by name. The slice is the caller's.
func Services() []Service { return append([]Service(nil), services...) }

// Names are the names of all services, sorted. The slice is the caller's.
func Names() []string { return Where(func(Service) bool { return true }) }

// Where are the names of the services that fit, sorted.
func Where(fits func(Service) bool) []string {
	var names []string
	for _, s := range services {
		if fits(s) {
			names = append(names, s.Name)
		}
	}
	return names
}

// Has says whether a name is that of a service.
func Has(name string) bool {
	for _, s := range services {
		if s.Name == name {
			return true
		}
	}
	return false
}
