-- +goose Up
-- The approval that a person asked for and another one has to confirm, as JSON (confirm.Request); '' for none.
ALTER TABLE records ADD COLUMN request TEXT NOT NULL DEFAULT '';

-- Who asked for what the actor of an event confirmed; '' where one person decided.
ALTER TABLE events ADD COLUMN requested_by TEXT NOT NULL DEFAULT '';
