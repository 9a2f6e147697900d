-- What each archive holds, so that one which was cut off is found; and jobs of users who have had no key yet.

ALTER TABLE attempts ADD COLUMN archive_bytes INTEGER CHECK (archive_bytes >= 0);  -- once measured; before encryption

CREATE INDEX jobs_without_key ON jobs (user) WHERE public_key = '';
