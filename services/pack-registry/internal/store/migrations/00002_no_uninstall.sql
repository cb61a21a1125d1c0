-- +goose Up
-- That an uninstall has begun is approval's to know: its record of the pack is retired until nothing else is left.
DROP TABLE uninstall;

-- +goose Down
CREATE TABLE uninstall (
    pack_id    TEXT PRIMARY KEY,
    started_at BIGINT NOT NULL
);
