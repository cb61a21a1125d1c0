-- +goose Up
CREATE TABLE records (
    pack_id          TEXT    NOT NULL PRIMARY KEY,
    status           TEXT    NOT NULL,
    identity         TEXT    NOT NULL,
    version          TEXT    NOT NULL,
    description      TEXT    NOT NULL,
    requested        TEXT    NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL,
    approved_at      BIGINT  NOT NULL,
    digest           TEXT    NOT NULL,
    rejection_reason TEXT    NOT NULL,
    last_error       TEXT    NOT NULL,
    revision         BIGINT  NOT NULL
);

CREATE TABLE events (
    pack_id  TEXT   NOT NULL REFERENCES records (pack_id) ON DELETE CASCADE,
    revision BIGINT NOT NULL,
    version  TEXT   NOT NULL,
    ts       BIGINT NOT NULL,
    action   TEXT   NOT NULL,
    digest   TEXT   NOT NULL,
    actor    TEXT   NOT NULL,
    reason   TEXT   NOT NULL,
    PRIMARY KEY (pack_id, revision)
);
