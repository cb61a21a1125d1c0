-- +goose Up
-- What an import left out, a JSON array of texts, so that it is told as long as the staging can be looked at.
ALTER TABLE staging ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]';

-- +goose Down
ALTER TABLE staging DROP COLUMN warnings;
