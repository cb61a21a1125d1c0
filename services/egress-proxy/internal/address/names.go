package address

import (
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/roster"
)

// suite are the names under which a Compose or Swarm network resolves Rumi's own services and those that are deployed with them.
var suite = append(roster.Names(), "consul", "prometheus", "grafana", "otel-collector", "otel-collector.rumi.internal", "jaeger", "postgres")

// hosts are names of the machine the suite runs on, and of services that hand out credentials.
var hosts = []string{
	"host.docker.internal", "gateway.docker.internal", "kubernetes.docker.internal", "vm.docker.internal",
	"host.containers.internal", "host.lima.internal", "host.minikube.internal",
	"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "metadata.tencentyun.com",
	"instance-data", "instance-data.ec2.internal", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
}

var denied = func() map[string]bool {
	m := make(map[string]bool)
	for _, name := range hosts {
		m[name] = true
	}
	for _, name := range suite {
		m[name] = true
		m["tasks."+name] = true // Swarm: each replica's address
	}
	return m
}()

// suiteName says whether a name is that of one of Rumi's own services, or of its replicas in a Swarm.
func suiteName(name string) bool {
	return slices.Contains(suite, strings.TrimPrefix(name, "tasks."))
}

// Suite gives the names of Rumi's own services. Their addresses are denied to packs; see package selfaddr.
func Suite() []string { return append([]string(nil), suite...) }

// reservedSuffixes end names that the public DNS never has: those of RFC 2606, RFC 6761, RFC 6762, RFC 8375 and RFC 9476, ICANN's
// ".internal", and others that are usual in private networks.
var reservedSuffixes = []string{
	".localhost", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".home.arpa", ".localdomain", ".test", ".invalid", ".example", ".onion", ".alt",
}

// PrivateName says whether a name can't be in the public DNS. If it resolves at all, it is to an internal address.
func PrivateName(name string) bool {
	if !strings.Contains(name, ".") {
		return true
	}
	for _, suffix := range reservedSuffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// DeniedName says whether a name, in hostname's normal form, is never resolved for a pack, whatever was granted. The look-up itself
// would tell a pack something: our resolver answers for names of the container network that no pack can ask for itself.
func DeniedName(name string) bool {
	return denied[name] || strings.HasSuffix(name, ".cluster.local") || strings.HasSuffix(name, ".consul")
}
