-- What scdctl show --timing tells beside the times of states: seconds, and NULL where nothing was measured.

ALTER TABLE jobs ADD COLUMN upload_seconds REAL CHECK (upload_seconds >= 0);       -- from the first byte of the import to the last
ALTER TABLE attempts ADD COLUMN unpack_seconds REAL CHECK (unpack_seconds >= 0);   -- of a preparation
ALTER TABLE attempts ADD COLUMN archive_seconds REAL CHECK (archive_seconds >= 0); -- of a node: packing its results
ALTER TABLE ledger ADD COLUMN seconds REAL NOT NULL DEFAULT 0 CHECK (seconds >= 0); -- that a download took

CREATE INDEX ledger_by_job ON ledger (job_hash);
