-- Stream keys and studio secrets are kept as SHA-256, by which they are recognized, and sealed where they are shown again: encrypted
-- under a secret that is not in the database (src/directory/seal.rs). A stream of before keeps its key, which is shown again once it
-- has a new one; its studio link opens nothing until the box brings it again.

ALTER TABLE streams ADD COLUMN key_sealed TEXT;
ALTER TABLE streams ADD COLUMN studio_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE streams ADD COLUMN studio_sealed TEXT;
ALTER TABLE streams DROP COLUMN key;
ALTER TABLE streams DROP COLUMN studio_secret;
