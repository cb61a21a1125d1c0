-- +goose Up
-- When the revision was raised: replicas measure by it how long a change takes to reach them.
ALTER TABLE capability_revisions ADD COLUMN changed_at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE capability_revisions DROP COLUMN changed_at;
