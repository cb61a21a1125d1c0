-- +goose Up
CREATE TABLE network_denials (
    pack_id    TEXT NOT NULL,
    host       TEXT NOT NULL,
    port       INTEGER NOT NULL,
    method     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    path       TEXT NOT NULL,
    count      BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL,
    PRIMARY KEY (pack_id, host, port, method, reason, path)
);
CREATE TABLE network_usage (
    pack_id TEXT NOT NULL,
    day     BIGINT NOT NULL, -- days since 1970, UTC
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (pack_id, day)
);

-- +goose Down
DROP TABLE network_usage;
DROP TABLE network_denials;
