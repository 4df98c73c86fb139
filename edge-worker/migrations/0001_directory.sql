-- The directory: which streams exist, with their keys, and the broadcasts each has had.

CREATE TABLE streams (
    name TEXT NOT NULL PRIMARY KEY,
    -- What the key is found by, and the SHA-256 of the whole key in lower-case hexadecimal.
    key_id TEXT NOT NULL UNIQUE,
    key_sha256 TEXT NOT NULL,
    -- The key itself and what the studio link carries: shown to the stream's owner. Secrets.
    key TEXT NOT NULL,
    studio_secret TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    -- How many watch, as the stream's object last counted them.
    viewers INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- One row a go-live.
CREATE TABLE broadcasts (
    id TEXT NOT NULL PRIMARY KEY,
    stream TEXT NOT NULL REFERENCES streams (name) ON DELETE CASCADE,
    opened_unix_ms INTEGER NOT NULL,
    -- NULL until every track has a complete segment.
    playable_unix_ms INTEGER,
    -- What the API says of its tracks, JSON; NULL until it is playable.
    tracks TEXT,
    -- NULL while it goes on.
    closed_unix_ms INTEGER
) WITHOUT ROWID;

CREATE INDEX broadcasts_by_stream ON broadcasts (stream, opened_unix_ms);
