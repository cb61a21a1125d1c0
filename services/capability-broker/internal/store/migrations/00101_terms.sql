-- +goose Up
-- What narrows a grant, as JSON; the two columns beside it are what a use is counted by.
ALTER TABLE capability_grants ADD COLUMN terms TEXT NOT NULL DEFAULT '{}';
ALTER TABLE capability_grants ADD COLUMN max_uses BIGINT NOT NULL DEFAULT 0; -- 0 for any number
ALTER TABLE capability_grants ADD COLUMN uses BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE capability_grants DROP COLUMN uses;
ALTER TABLE capability_grants DROP COLUMN max_uses;
ALTER TABLE capability_grants DROP COLUMN terms;
