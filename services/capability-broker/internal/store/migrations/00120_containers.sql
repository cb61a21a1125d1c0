-- +goose Up
-- What is wanted of the containers of packs and how they went so far, a host's brokers each for its own: a container
-- does not move. The record is JSON; nobody looks for anything in it.
CREATE TABLE capability_containers (
    node    TEXT NOT NULL,
    pack_id TEXT NOT NULL,
    record  TEXT NOT NULL,
    PRIMARY KEY (node, pack_id)
);

-- +goose Down
DROP TABLE capability_containers;
