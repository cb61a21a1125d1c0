package address

import (
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/roster"
)

// suite are the names under which a compose or Swarm network resolves our own services and those that come with them.
var suite = append(roster.Names(), "consul", "prometheus", "grafana", "postgres")

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

// suiteName says whether a name is one of the suite's own, or of its replicas.
func suiteName(name string) bool {
	return slices.Contains(suite, strings.TrimPrefix(name, "tasks."))
}

// Suite are the suite's own names, whose addresses stay closed.
func Suite() []string { return append([]string(nil), suite...) }

// reservedSuffixes are for names that the public DNS never has: RFC 2606, RFC 6761, RFC 6762, RFC 8375, RFC 9476, ICANN's
// "internal", and what private networks use besides.
var reservedSuffixes = []string{
	".localhost", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".home.arpa", ".localdomain", ".test", ".invalid", ".example", ".onion", ".alt",
}

// PrivateName says whether a name can't be a public one: it stands for an internal address, if for any.
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

// DeniedName says whether a name, in hostname's one form, is never looked up for a pack, whatever was granted.
func DeniedName(name string) bool {
	return denied[name] || strings.HasSuffix(name, ".cluster.local") || strings.HasSuffix(name, ".consul")
}
