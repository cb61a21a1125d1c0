-- +goose Up
-- Whether a scan that an operator asked for has told of the candidate: one that was found by itself is told once as new.
ALTER TABLE candidates ADD COLUMN announced INTEGER NOT NULL DEFAULT 1;

-- +goose Down
ALTER TABLE candidates DROP COLUMN announced;
