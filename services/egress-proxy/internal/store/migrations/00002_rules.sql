-- +goose Up
ALTER TABLE network_grants ADD COLUMN rules TEXT NOT NULL DEFAULT '[]'; -- JSON array of objects
ALTER TABLE network_grants ADD COLUMN allow_tunnel INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE network_grants DROP COLUMN allow_tunnel;
ALTER TABLE network_grants DROP COLUMN rules;
