-- +goose Up
ALTER TABLE capability_trust ADD COLUMN config_schema TEXT NOT NULL DEFAULT ''; -- JSON Schema of a grant's config, '' for none

-- +goose Down
ALTER TABLE capability_trust DROP COLUMN config_schema;
