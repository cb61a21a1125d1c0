-- +goose Up
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE, -- rows are never deleted, so that a name means one token for ever
    role       TEXT NOT NULL,
    scopes     TEXT NOT NULL, -- JSON array of objects, [] for none
    notes      TEXT NOT NULL,
    lineage    TEXT NOT NULL, -- JSON array of names
    hash       TEXT NOT NULL, -- SHA-256 of the secret, in hexadecimal
    old_hash   TEXT NOT NULL, -- of the secret before; '' for none
    old_until  BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    rotated_at BIGINT NOT NULL,
    rotated_by TEXT NOT NULL,
    revoked_at BIGINT NOT NULL,
    revoked_by TEXT NOT NULL,
    revision   BIGINT NOT NULL
);
CREATE INDEX tokens_revision ON tokens (revision); -- a gateway reads what has changed, not all
-- One row: how gateways notice each other's changes.
CREATE TABLE token_revision (
    id       INTEGER PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO token_revision (id, revision) VALUES (1, 0);
-- Apart from the tokens: a use changes nothing that gateways decide by. It has a row for init's token, too.
CREATE TABLE token_uses (
    id        TEXT PRIMARY KEY,
    used_at   BIGINT NOT NULL,
    used_from TEXT NOT NULL
);

-- +goose Down
DROP TABLE token_uses;
DROP TABLE token_revision;
DROP TABLE tokens;
