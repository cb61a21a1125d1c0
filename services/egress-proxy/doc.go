// Command egress-proxy is the only way from a pack to the network. It serves a Unix socket for each approved pack and carries the
// requests that the pack's grant allows.
//
// It owns the network grants, the log of denials, the count of bytes that each pack sent today, and the packs' sockets
// (/run/rumi/egress/packs). All but the sockets is in its database (user_data/state/egress-proxy.db, or PostgreSQL).
//
// Callers: packs, over their sockets, in frames of JSON or as an HTTP proxy; the gateway (grants, denials, proposals); pack-registry
// (uninstall). It calls only approval, whose stream of gates it follows.
//
// When it dies, packs have no network: connections under way end and new ones fail until it is back. Nothing opens because of that. The
// denials and the bytes of the last second are lost, the audit entries are not: a request is answered only after its
// entry is on the disk.
//
// Several replicas may serve the same packs: the store is shared, each follows what the others write, and the sockets of a dead one
// are taken over.
//
// The order in which a request is decided is the design of this service: gate, grant, path rules; then the rate limit; then the name,
// the look-up, and each of its addresses. Policy comes before DNS, since a look-up already tells the owner of a name
// something. A granted name may resolve to an internal address (DNS rebinding), so every address is decided on, and the
// connection is made to the very address that was allowed. In a tunnel, the TLS server name must be the granted host.
//
// Read the packages in this order:
//
//   - internal/grant: network grants and their path rules; it declares the store that it needs;
//   - libs/hostname, internal/urlpath: one normal form for hosts and paths, so that every step compares the same thing;
//   - internal/address, internal/selfaddr: which addresses packs may be connected to, and where Rumi itself is;
//   - internal/decision: the pure functions that decide on one request;
//   - internal/dns, internal/resolve: resolving names that hostile packs choose;
//   - internal/headers: the one check of header fields;
//   - internal/clienthello: the server name of a TLS connection that isn't opened;
//   - internal/upstream: HTTP to servers that may be hostile, too;
//   - internal/issuer: the keys of the issuer of sign-ins, for the gateway;
//   - internal/session: what is kept of each pack: its limits, and the time for which its permissions only widened;
//   - internal/record: a request's audit entries, log line, metrics and span;
//   - internal/packspans: the spans that packs make themselves, on their way to the collector;
//   - internal/frameproto, internal/httpproxy: the two protocols that packs speak;
//   - internal/egress: puts these together for one connection of a pack;
//   - internal/denials, internal/quota: what was refused, what was sent; internal/flush stores both once a second;
//   - internal/sockets: the packs' sockets, which follow the gates;
//   - internal/store: grants, denials and usage in a database;
//   - internal/httpapi: the routes.
//
// Package main has no behaviour of its own: config.go says what an operator can set, authorities.go whom servers are verified by,
// main.go puts the parts together.
package main
