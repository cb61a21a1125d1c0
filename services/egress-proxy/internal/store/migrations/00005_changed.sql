-- +goose Up
-- When the revision was raised: replicas measure by it how long a change takes to reach them.
ALTER TABLE grant_revision ADD COLUMN changed_at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE grant_revision DROP COLUMN changed_at;
