-- +goose Up
CREATE TABLE candidates (
    candidate_key  TEXT    PRIMARY KEY,
    pack_id        TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    reject_count   INTEGER NOT NULL,
    cooldown_until BIGINT  NOT NULL,
    created_at     BIGINT  NOT NULL,
    updated_at     BIGINT  NOT NULL,
    actor          TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    last_error     TEXT    NOT NULL,
    payload        TEXT    NOT NULL,
    revision       BIGINT  NOT NULL
);
CREATE INDEX candidates_by_pack ON candidates (pack_id);

-- +goose Down
DROP TABLE candidates;
