-- +goose Up
-- The pack_identity that a child's parent had when the child was approved: under another parent it needs another decision. '' for a
-- pack that is no child, and for one that was approved without its parent or before this column was there.
ALTER TABLE records ADD COLUMN parent_identity TEXT NOT NULL DEFAULT '';
