-- Jobs of users with a key: what lies on the disk of them is encrypted once they have ended.

ALTER TABLE jobs ADD COLUMN public_key TEXT NOT NULL DEFAULT '';                                  -- '': not encrypted
ALTER TABLE jobs ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0 CHECK (sealed IN (0, 1));   -- nothing plain is left

CREATE INDEX jobs_to_seal ON jobs (job_hash) WHERE public_key <> '' AND sealed = 0;
