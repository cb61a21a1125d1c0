// Package server is the side of libs/rpc that answers. Mux (mux.go) routes requests, admits to each route only the services that
// the route names, and has telemetry record every answer. Listener (listener.go) is where they come from: connections of holders
// of a certificate of the suite's authority. EnvelopeRefusals (refusal.go) puts what net/http answers before any handler into the envelope.
package server
