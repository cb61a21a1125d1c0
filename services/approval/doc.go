// Command approval is the service that decides which packs may run.
//
// It owns the approval records and their histories (table records and events of its database), the bytes that were approved
// (user_data/approved) and the export of what waits for a decision (user_data/pending/summary.json). It reads the ecosystem folder and
// never writes to it.
//
// Callers: the gateway (lists, reviews, approve, reject), pack-registry (refresh after an apply, uninstall), and the services that enforce
// gates: egress-proxy, capability-broker and pip-installer follow its stream of gates; broker and pip-installer fetch approved trees. It
// calls broker and pip-installer only for the counts of the pending export.
//
// When it dies, every gate closes: the lease of its stream ends after five seconds, and the followers refuse every request of every pack
// from then on. Containers are stopped 30 seconds later, so that a restart of approval costs no pack its container. After the start it
// verifies every pack that may run before it opens a gate. A crash at any step of a decision leaves the pack as it was before or as it was
// decided; it never leaves a decision without its audit entry.
//
// Several replicas may share the database and the folders. Each follows what the others decide (internal/approval, follow.go).
//
// Read the packages in this order:
//
//   - internal/record: the state machine of a pack, as a table;
//   - internal/approval: decisions, scans, gates; it declares the store that it needs;
//   - internal/store: the records in a database;
//   - internal/blob: approved bytes, by content;
//   - internal/watch: which packs may have changed, by inotify;
//   - internal/review: what a reviewer is shown of a pack;
//   - internal/pending: the export for operators' tools;
//   - internal/httpapi: the routes.
package main
