-- How far the clock of a broadcast's box is ahead of the platform's, milliseconds; NULL until a heartbeat has said so.

ALTER TABLE broadcasts ADD COLUMN clock_offset_ms INTEGER;
