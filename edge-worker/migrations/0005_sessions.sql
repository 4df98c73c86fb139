-- What was taken back before its time (protocol/src/token/revocations.rs). One that is said again gets a new id: whoever knows all up to
-- one id reads what is newer.

CREATE TABLE revocations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- JSON: which token, subject or session, or all.
    what TEXT NOT NULL,
    -- For which streams: a name, or the beginning of names and '*'.
    streams TEXT NOT NULL,
    at_unix_ms INTEGER NOT NULL,
    -- From when on it is of no use; NULL for never.
    until_unix_ms INTEGER,
    UNIQUE (what, streams)
);

-- Watch links: tokens that the owner of a stream made on the studio page. Only what they say is kept: they are signed again to be shown.

CREATE TABLE links (
    jti TEXT NOT NULL PRIMARY KEY,
    stream TEXT NOT NULL REFERENCES streams (name) ON DELETE CASCADE,
    -- What the owner calls it.
    name TEXT NOT NULL,
    -- The claims, JSON.
    claims TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX links_by_stream ON links (stream, created_unix_ms);
