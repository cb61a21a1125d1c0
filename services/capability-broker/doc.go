// Command capability-broker runs packs, and does for packs what they may not do themselves.
//
// It owns the packs' containers and data (user_data/packs), the trust in handlers with the copies that run (user_data/capabilities), the
// capability grants, the values of store.*, and one Unix socket for each pack, over which the pack asks for permissions. All that is
// decided is in its database (user_data/state/capability-broker.db, or PostgreSQL); what runs is asked of Docker.
//
// Callers: packs, over their sockets; the gateway (grants, handlers, containers); pack-registry (uninstall); approval (how many candidates
// wait). It follows approval's stream of gates and fetches approved trees there; it asks pack-registry for the files of handlers,
// pip-installer for what is installed for packs, and secrets for values.
//
// When it dies, calls under way fail and packs run on: a restart must not interrupt them. PID 1 in a pack's container ends it after a
// minute without a broker, since nobody would stop it when its gate closes. After a restart the broker compares the containers with its
// records, keeps those that are right, and removes the workers that the dead process has left. A crash leaves no decision without its
// audit entry.
//
// Several replicas may run on one host, and on several hosts with PostgreSQL. They share the database; those of one host share the
// folders, under locks, and Docker. Each follows what the others decide.
//
// Read the packages in this order:
//
//   - internal/call: a call on a socket, from frame to answer: the decision, its audit entries, who carries it out;
//   - internal/grant: which principal may use which permission, and on which terms; it declares the store that it needs;
//   - internal/schema: the JSON Schemas of arguments and configs, bounded so that none can take the broker down;
//   - internal/handler: packs' handlers, from found to trusted;
//   - internal/builtin, internal/kv: the permissions that the broker serves itself: secrets.get and store.*;
//   - internal/worker: the containers in which handlers do calls, and the pool that keeps them warm;
//   - internal/mount: the folders of the host that a handler may see;
//   - internal/supervisor: ends workers whose decision has changed, and starts some ahead of the first call;
//   - internal/container: the packs' own containers; internal/packdata, internal/runlog: their data and the output of their earlier runs;
//   - internal/store: grants, trust and container records in a database;
//   - internal/httpapi: the routes;
//   - internal/uninstall, internal/shutdown, internal/orphan: the end of a pack, of the suite, and of what a dead replica has left;
//   - internal/engine, internal/unconfined: Docker, or processes in permissive mode;
//   - internal/replica, internal/peers, internal/layout, internal/cabundle: this process among others, other services, files.
//
// Package main itself has no behaviour: config.go says what an operator can set, main.go and wiring.go put the parts together.
package main
