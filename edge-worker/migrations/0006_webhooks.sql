-- Events for webhooks: what waits to be told, what could not be told (dead letters), and for a while what was told, so that nothing is told
-- twice after a restart.

CREATE TABLE webhook_events (
    -- The same for the same event whenever it is noticed.
    id TEXT NOT NULL,
    -- Whom it is for: the webhook's name.
    webhook TEXT NOT NULL,
    stream TEXT NOT NULL,
    -- What is sent, JSON.
    body TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- When it is sent, or sent again; NULL: not by itself any more.
    due_unix_ms INTEGER,
    -- When it arrived; NULL together with the one before: a dead letter.
    delivered_unix_ms INTEGER,
    -- Why the last attempt failed, a sentence.
    error TEXT,
    PRIMARY KEY (id, webhook)
) WITHOUT ROWID;

CREATE INDEX webhook_events_due ON webhook_events (webhook, due_unix_ms);
