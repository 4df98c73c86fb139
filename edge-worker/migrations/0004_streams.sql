-- What a stream is to viewers and what it may take, changed by the configuration and by the API.

-- public: listed, anybody watches. unlisted: whoever knows the address watches. token: needs a token to watch.
ALTER TABLE streams ADD COLUMN visibility TEXT NOT NULL DEFAULT 'public';
ALTER TABLE streams ADD COLUMN title TEXT;
-- JSON, as `Limits` of protocol/ has them: what is not named has no limit.
ALTER TABLE streams ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
-- What a configuration said of all this last, JSON: the same words again change nothing, so that what the API changed stays.
ALTER TABLE streams ADD COLUMN configured TEXT;
-- The key before this one, SHA-256 in lower-case hexadecimal, and until when it is good too.
ALTER TABLE streams ADD COLUMN old_key_sha256 TEXT;
ALTER TABLE streams ADD COLUMN old_key_until_unix_ms INTEGER;
