// Package rpc is the form in which services answer each other: JSON in the envelope of docs/contract.md, over HTTP/1.1 with mutual TLS.
// It holds what a server and a client must agree on, and what handlers need. The rest stands in packages below it, which
// import it and are never imported by it:
//
//	rpc            envelope, headers, Decode (strict requests), Handle and Raw (functions as http.Handlers), WriteError, StreamData
//	rpc/server     Mux: routes that name their callers; the listener of a service; net/http's own refusals in the envelope
//	rpc/client     Peer and Call: instances, retries, circuit breakers, connections
//	rpc/telemetry  Recorder: spans, durations and log lines of requests; the trace context between services
//
// client and server both import telemetry, and never each other.
package rpc
