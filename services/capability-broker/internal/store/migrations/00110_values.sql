-- +goose Up
-- Names are bytes: both databases compare those alike, whatever a database's collation is, and lists go by their order.
CREATE TABLE store_values (
    store_id   TEXT   NOT NULL,
    name       BYTEA  NOT NULL,
    value      TEXT   NOT NULL, -- JSON
    size       BIGINT NOT NULL, -- what it counts towards the store's bytes
    updated_at BIGINT NOT NULL,
    updated_by TEXT   NOT NULL, -- the principal
    PRIMARY KEY (store_id, name)
);

CREATE TABLE store_usage (
    store_id   TEXT   NOT NULL PRIMARY KEY,
    key_count  BIGINT NOT NULL,
    byte_count BIGINT NOT NULL
);

-- +goose Down
DROP TABLE store_usage;
DROP TABLE store_values;
