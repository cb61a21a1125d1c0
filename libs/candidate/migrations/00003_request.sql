-- +goose Up
-- The approval that a person asked for and another one has to confirm, as JSON (confirm.Request); '' for none.
ALTER TABLE candidates ADD COLUMN request TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE candidates DROP COLUMN request;
