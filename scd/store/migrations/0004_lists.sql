-- A user's jobs in one state, the newest first: the status page shows them a page at a time.

CREATE INDEX jobs_by_user_state ON jobs (user, state, created);
