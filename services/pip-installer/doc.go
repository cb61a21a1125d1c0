// Command pip-installer is the service that installs the Python packages that packs list in requirements.lock, after an operator's
// approval, and sends the installed environments to the service that runs packs.
//
// It owns the candidates (one for each lock that was found, in its database), the builder containers, and the environments and work folders
// in user_data/pip. It is one of the two services that may use Docker; libs/sandbox can create hardened containers only.
//
// Callers: the gateway (candidates and decisions), capability-broker (environments), pack-registry (uninstall), approval (counts). It calls
// pack-registry to find locks, and approval for gates and approved trees.
//
// When it dies, packs run on with the environments that they have. A build under way is lost: its container is removed later, its candidate
// is as before, and the approval can be repeated.
//
// Read the packages in this order:
//
//   - internal/lock: what a lock may contain;
//   - internal/installer: scan, decision, build, hand-out;
//   - internal/build: the builder container, in which strangers' code runs;
//   - internal/environment: the check of what a builder left, and the store of environments;
//   - internal/httpapi: the routes.
//
// The states of a candidate are in libs/candidate.
package main
