-- +goose Up
CREATE TABLE staging (
    staging_id  TEXT PRIMARY KEY,
    created_at  BIGINT NOT NULL,
    input_type  TEXT NOT NULL,
    source_path TEXT NOT NULL,
    notes       TEXT NOT NULL,
    actor       TEXT NOT NULL,
    multi       INTEGER NOT NULL,
    packs       TEXT NOT NULL
);

-- The journal of apply: what is being put into ecosystem/. A row is there only while that goes on, or after a crash.
CREATE TABLE apply_operation (
    operation_id TEXT PRIMARY KEY,
    staging_id   TEXT NOT NULL,
    started_at   BIGINT NOT NULL,
    committed    INTEGER NOT NULL,
    packs        TEXT NOT NULL
);

-- Packs whose uninstall has begun and not ended, so that it can be repeated when their files are gone already.
CREATE TABLE uninstall (
    pack_id    TEXT PRIMARY KEY,
    started_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE uninstall;
DROP TABLE apply_operation;
DROP TABLE staging;
