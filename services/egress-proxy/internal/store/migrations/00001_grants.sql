-- +goose Up
CREATE TABLE network_grants (
    pack_id         TEXT PRIMARY KEY,
    enabled         INTEGER NOT NULL,
    allowed_domains TEXT NOT NULL, -- JSON array of texts
    allowed_ports   TEXT NOT NULL, -- JSON array of numbers
    granted_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    granted_by      TEXT NOT NULL,
    notes           TEXT NOT NULL,
    expires_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL
);
-- One row: how replicas notice each other's changes, removals included.
CREATE TABLE grant_revision (
    id       INTEGER PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO grant_revision (id, revision) VALUES (1, 0);

-- +goose Down
DROP TABLE grant_revision;
DROP TABLE network_grants;
