package route

import "time"

// The names of the services that own public paths.
const (
	registry = "pack-registry"
	approval = "approval"
	egress   = "egress-proxy"
	broker   = "capability-broker"
	pip      = "pip-installer"
	secrets  = "secrets"
)

// The classes of routes.
var (
	quick   = Class{Timeout: 15 * time.Second}
	slow    = Class{Timeout: 2 * time.Minute}                     // reads or copies whole trees, waits for Docker
	install = Class{Timeout: 30 * time.Minute}                    // downloads and builds
	upload  = Class{Timeout: 30 * time.Minute, Upload: 500 << 20} // contract.md, "Import"
	logs    = Class{Timeout: 15 * time.Second, Follow: true}
)

// Routes are the public paths and their owners.
var Routes = []Route{
	// The gateway's own.
	{Method: "GET", Pattern: "/api/health"},
	{Method: "GET", Pattern: "/api/pending"},
	{Method: "GET", Pattern: "/api/storage"},

	{"GET", "/api/packs", approval, quick},
	{"GET", "/api/packs/pending", approval, quick},
	{"GET", "/api/packs/{pack_id}/status", approval, quick},
	{"GET", "/api/packs/{pack_id}/review", approval, slow},
	{"GET", "/api/packs/{pack_id}/review/file", approval, slow},
	{"POST", "/api/packs/{pack_id}/approve", approval, slow},
	{"POST", "/api/packs/{pack_id}/reject", approval, slow},
	{"POST", "/api/packs/scan", registry, slow},
	{"POST", "/api/packs/import", registry, upload},
	{"POST", "/api/packs/apply", registry, slow},
	{"DELETE", "/api/packs/{pack_id}", registry, slow},
	{"GET", "/api/packs/{pack_id}/backups", registry, slow},
	{"DELETE", "/api/packs/{pack_id}/backups/{backup}", registry, slow},
	{"POST", "/api/packs/{pack_id}/rollback", registry, slow},
	{"GET", "/api/packs/staging", registry, slow},
	{Method: "GET", Pattern: "/api/packs/{pack_id}"},           // the gateway's own, behind the words that stand in its place
	{"GET", "/api/packs/staging/{staging_id}", registry, slow}, // behind those of a pack, which may be called staging
	{"DELETE", "/api/packs/staging/{staging_id}", registry, slow},

	{"GET", "/api/network/list", egress, quick},
	{"GET", "/api/network/denials", egress, quick},
	{"GET", "/api/network/proposal", egress, quick},
	{"POST", "/api/network/grant", egress, quick},
	{"POST", "/api/network/revoke", egress, quick},
	{"POST", "/api/network/check", egress, quick},

	{"POST", "/api/capability/candidates/scan", broker, slow},
	{"GET", "/api/capability/requests", broker, quick},
	{"POST", "/api/capability/requests/{candidate_key}/approve", broker, slow},
	{"POST", "/api/capability/requests/{candidate_key}/reject", broker, quick},
	{"POST", "/api/capability/requests/{candidate_key}/revoke", broker, quick},
	{"GET", "/api/capability/blocked", broker, quick},
	{"POST", "/api/capability/blocked/{candidate_key}/unblock", broker, quick},
	{"GET", "/api/capability/grants", broker, quick},
	{"POST", "/api/capability/grants/grant", broker, quick},
	{"POST", "/api/capability/grants/revoke", broker, quick},
	{"GET", "/api/capability/handlers", broker, quick},
	{"GET", "/api/capability/handlers/{pack_id}/{slug}/logs", broker, logs},
	{"GET", "/api/docker/status", broker, quick},
	{"GET", "/api/containers", broker, quick},
	{"GET", "/api/containers/{pack_id}/logs", broker, logs},
	{"GET", "/api/containers/{pack_id}/stats", broker, quick},
	{"POST", "/api/containers/{pack_id}/start", broker, slow},
	{"POST", "/api/containers/{pack_id}/stop", broker, slow},
	{"DELETE", "/api/containers/{pack_id}", broker, slow},

	{"POST", "/api/pip/candidates/scan", pip, slow},
	{"GET", "/api/pip/requests", pip, quick},
	{"POST", "/api/pip/requests/{candidate_key}/approve", pip, install},
	{"POST", "/api/pip/requests/{candidate_key}/reject", pip, quick},
	{"GET", "/api/pip/blocked", pip, quick},
	{"POST", "/api/pip/blocked/{candidate_key}/unblock", pip, quick},

	{"GET", "/api/secrets", secrets, quick},
	{"POST", "/api/secrets/set", secrets, quick},
	{"POST", "/api/secrets/delete", secrets, quick},
}
