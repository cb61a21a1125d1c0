// Package client is the side of libs/rpc that asks. Call sends a request to a Peer and reads the envelope of its answer; Stream is for bodies
// that are read piece by piece (peer.go). A Peer is another service: its instances take turns, each behind a circuit breaker
// (breaker.go), and each is a host whose name may stand for several addresses (dial.go). direct.go is an HTTP/1.1 client for
// requests that are in memory.
package client
