-- +goose Up
CREATE TABLE capability_grants (
    principal_id  TEXT    NOT NULL,
    permission_id TEXT    NOT NULL,
    enabled       INTEGER NOT NULL,
    config        TEXT    NOT NULL,
    expires_at    BIGINT  NOT NULL, -- microseconds since 1970, 0 for never
    granted_at    BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL,
    granted_by    TEXT    NOT NULL,
    PRIMARY KEY (principal_id, permission_id)
);

CREATE TABLE capability_trust (
    pack_id       TEXT   NOT NULL,
    slug          TEXT   NOT NULL,
    candidate_key TEXT   NOT NULL,
    handler_id    TEXT   NOT NULL,
    permission_id TEXT   NOT NULL,
    entrypoint    TEXT   NOT NULL,
    script_sha256 TEXT   NOT NULL,
    folder_digest TEXT   NOT NULL,
    installed_at  BIGINT NOT NULL,
    installed_by  TEXT   NOT NULL,
    PRIMARY KEY (pack_id, slug)
);

-- What replicas compare with what they last read.
CREATE TABLE capability_revisions (
    subject  TEXT   NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO capability_revisions (subject, revision) VALUES ('grants', 1), ('trust', 1);

-- +goose Down
DROP TABLE capability_revisions;
DROP TABLE capability_trust;
DROP TABLE capability_grants;
