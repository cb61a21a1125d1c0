package generate

// values are examples of fields by their names in JSON, for routes without an example of their own.
var values = map[string]any{
	"pack_id": "my_pack", "candidate_key": "my_pack:translate:h.translate:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
	"staging_id": "3f2a9c0d1e4b5a67", "backup": "20270131T120000Z-3f2a9c0d", "slug": "translate", "handler_id": "h.translate",
	"permission_id": "translate.text", "principal_id": "my_pack", "pack_identity": "github:example/my_pack", "version": "1.2.0",
	"description": "Sends a message when the build fails", "key": "API_TOKEN", "masked": "********",
	"digest": digest, "approved_digest": digest, "sha256": digest[len("sha256:"):], "path": "backend/main.py",
	"domain": "api.example.com", "host": "api.example.com", "port": 443, "allowed_domains": []any{"api.example.com"}, "allowed_ports": []any{443},
	"granted_by": "alice", "actor": "alice", "notes": "asked for in the change of 31 January", "reason": "not needed any more",
	"container_id": "4c01db0b339c", "image": "rumi-pack:latest", "error": nil, "last_error": nil, "warnings": []any{}, "errors": []any{},
	"enabled": true, "success": true, "may_run": true, "granted": true, "revoked": true, "stream": "stdout", "text": "ready",
	"count": 1, "bytes": 4096, "size": 4096, "mode": "0644", "method": "GET", "index_url": "https://pypi.org/simple",
	"created_at": "2027-01-31T12:00:00Z", "request_id": "P3A3X4ZBYZOUCGVLLNP4LFNP5M", "entrypoint": "backend/main.py",
	"status_after": "pending", "source": "models", "target": "/models", "installed_by": "alice", "reject_reason": "", "rejection_reason": nil,
	"installed_to": "user_data/handlers/my_pack/translate", "source_dir": "share/capability_handlers/translate", "risk": "low",
	"handler_py_sha256": digest[len("sha256:"):], "requirements_sha256": digest[len("sha256:"):], "folder_digest": digest, "status_filter": "all",
	"image_id": digest, "api_version": "1.51", "os": "linux", "arch": "amd64", "kernel": "6.12.0", "runtime": "runc", "default_runtime": "runc",
	"storage_driver": "overlay2", "cgroup_version": "2", "cgroup_driver": "systemd", "why": "internal address", "setting": "RUMI_EGRESS_ALLOW_CIDRS",
	"staging_dir": "user_data/pack_staging/3f2a9c0d1e4b5a67", "input_type": "zip", "source_path": "downloads/my_pack.zip",
	"backup_path": "user_data/pack_backups/my_pack/20270131T120000Z-3f2a9c0d", "kind": "file", "change": "added", "tree": "current",
	"encoding": "utf-8", "data": "print('ready')\n", "action": "approved", "site_packages_path": "user_data/pip/my_pack/site-packages",
	"service": "approval", "what": "my_pack waits for a decision", "field": "version", "from": "a.py", "to": "b.py", "first": "backend/main.py",
	"before": "0644", "after": "0755", "status": "installed", "state": "pending", "requirements_relpath": "requirements.lock", "name": "requests", "tail": 100,
}

const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func value(field string) (any, bool) {
	v, ok := values[field]
	return v, ok
}
