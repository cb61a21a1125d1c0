-- +goose Up
-- 1 for a pack whose uninstall has begun and not ended: it is what is left to find of a pack whose files, grants and all are gone.
ALTER TABLE records ADD COLUMN retired INTEGER NOT NULL DEFAULT 0;
