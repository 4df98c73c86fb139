-- Streams that were deleted, until the last of their objects is: a box may still have been writing some, and a sweep looks for them by
-- the names of streams.

CREATE TABLE deleted_streams (
    name TEXT NOT NULL PRIMARY KEY,
    deleted_unix_ms INTEGER NOT NULL
) WITHOUT ROWID;
