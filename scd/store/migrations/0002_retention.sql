-- Retries of what was lost through no fault of its own, the sizes that retention goes by, and an order by end.

ALTER TABLE jobs ADD COLUMN retries INTEGER NOT NULL DEFAULT 0 CHECK (retries >= 0);   -- of this generation's preparation
ALTER TABLE jobs ADD COLUMN disk_bytes INTEGER CHECK (disk_bytes >= 0);                -- of an ended job, once measured
ALTER TABLE nodes ADD COLUMN retries INTEGER NOT NULL DEFAULT 0 CHECK (retries >= 0);  -- in this generation
ALTER TABLE attempts ADD COLUMN lost INTEGER NOT NULL DEFAULT 0 CHECK (lost IN (0, 1));

CREATE INDEX jobs_by_end ON jobs (user, ended);
-- With the primary key that each entry of an index holds too, a flipped byte in a tombstone is seen at start.
CREATE INDEX tombstones_by_time ON tombstones (deleted, user, state);
