-- +goose Up
-- The role of the person who granted it, by which the policy is applied; '' for one from before there were roles.
ALTER TABLE capability_grants ADD COLUMN granted_role TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE capability_grants DROP COLUMN granted_role;
