// Package service is the runtime of every service: configuration from the environment, logs, metrics, traces, readiness, clients of the other
// services, and a shutdown in the reverse order of the start. A service's func main is one call of Main.
//
//	main.go       Main, and Start for tests: from the environment to a running service
//	settings.go   the settings of all services, and strict parsing: an unknown RUMI_ variable is an error
//	privilege.go  giving up root, with the group of the Docker socket
//	runtime.go    Runtime: what Build gets; the frame of the HTTP servers; start and stop in order
//	identity.go   the service's certificate while it runs; audit entries of callers and peers that are refused
//	admin.go      the admin listener: /metrics, /healthz, /readyz
//	ready.go      checks of readiness, and the instructions that they give to the operator
//	mounts.go     the end of a service whose folder was moved, removed or replaced on the host
//	log.go        JSON log lines with request and trace ids, no attribute twice
//	lines.go      writing log lines without waiting for their reader
//	memory.go     tuning of the garbage collector
//
// Package servicetest runs services in tests. This package imports libs/rpc, libs/audit and libs/store; no service and no api.
package service
