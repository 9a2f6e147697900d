-- The first schema. Times are seconds since 1970, UTC; durations seconds; sizes bytes.

CREATE TABLE jobs (
    job_hash      TEXT PRIMARY KEY CHECK (length(job_hash) = 32 AND job_hash NOT GLOB '*[^0-9a-f]*'),
    user          TEXT NOT NULL,                    -- '' is the anonymous user
    state         TEXT NOT NULL CHECK (state IN ('queued', 'preparing', 'running',
                                                 'completed', 'failed', 'canceled', 'rejected', 'timeout')),
    reason        TEXT NOT NULL DEFAULT '',
    design        TEXT NOT NULL,
    jobname       TEXT NOT NULL,
    flow          TEXT NOT NULL,
    runtime       TEXT NOT NULL,
    created       REAL NOT NULL,
    started       REAL,
    ended         REAL CHECK ((ended IS NOT NULL) = (state IN ('completed', 'failed', 'canceled', 'rejected', 'timeout'))),
    upload_bytes  INTEGER NOT NULL DEFAULT 0 CHECK (upload_bytes >= 0),
    digest        TEXT NOT NULL,                    -- of the submission, to know a retry again
    answered      INTEGER NOT NULL DEFAULT 0 CHECK (answered IN (0, 1)),
    cancel_reason TEXT,
    generation    INTEGER NOT NULL DEFAULT 1 CHECK (generation > 0),
    plan          BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX jobs_by_state ON jobs (state, created);
CREATE INDEX jobs_by_user ON jobs (user, created);
CREATE INDEX jobs_by_digest ON jobs (digest, created);

CREATE TABLE nodes (
    job_hash TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step     TEXT NOT NULL CHECK (step <> ''),
    "index"  TEXT NOT NULL CHECK ("index" <> ''),
    n        INTEGER NOT NULL CHECK (n > 0),        -- short and safe in file and process names
    state    TEXT NOT NULL CHECK (state IN ('pending', 'queued', 'submitted', 'running',
                                            'success', 'error', 'skipped', 'timeout')),
    reason   TEXT NOT NULL DEFAULT '',
    attempt  INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    cores    INTEGER NOT NULL DEFAULT 1 CHECK (cores > 0),
    PRIMARY KEY (job_hash, step, "index"),
    UNIQUE (job_hash, n)
) STRICT, WITHOUT ROWID;

-- One try of a node, or of a job's preparation (step ''). Written before anything is started.
CREATE TABLE attempts (
    name          TEXT PRIMARY KEY,
    job_hash      TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step          TEXT NOT NULL,
    "index"       TEXT NOT NULL,
    attempt       INTEGER NOT NULL CHECK (attempt > 0),
    executor      TEXT NOT NULL,
    cores         INTEGER NOT NULL CHECK (cores > 0),
    queued        REAL NOT NULL,
    started       REAL,
    ended         REAL,
    elapsed       REAL CHECK (elapsed >= 0),
    state         TEXT CHECK (state IN ('success', 'error', 'skipped', 'timeout')),
    reason        TEXT NOT NULL DEFAULT '',
    exit_code     INTEGER,
    cpu_seconds   REAL,
    peak_bytes    INTEGER,
    read_bytes    INTEGER,
    written_bytes INTEGER,
    archive       TEXT,
    UNIQUE (job_hash, step, "index", attempt),
    CHECK ((state IS NULL) = (ended IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_by_end ON attempts (ended);

-- Every change of state. The database writes it itself, so none can be missed.
CREATE TABLE events (
    id       INTEGER PRIMARY KEY,
    at       REAL NOT NULL,
    job_hash TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step     TEXT NOT NULL,
    "index"  TEXT NOT NULL,
    old      TEXT,
    new      TEXT NOT NULL,
    reason   TEXT NOT NULL
) STRICT;

CREATE INDEX events_by_job ON events (job_hash, id);

CREATE TRIGGER job_created AFTER INSERT ON jobs BEGIN
    INSERT INTO events (at, job_hash, step, "index", old, new, reason)
    VALUES ((julianday('now') - 2440587.5) * 86400.0, new.job_hash, '', '', NULL, new.state, new.reason);
END;

CREATE TRIGGER job_changed AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
    INSERT INTO events (at, job_hash, step, "index", old, new, reason)
    VALUES ((julianday('now') - 2440587.5) * 86400.0, new.job_hash, '', '', old.state, new.state, new.reason);
END;

CREATE TRIGGER node_created AFTER INSERT ON nodes BEGIN
    INSERT INTO events (at, job_hash, step, "index", old, new, reason)
    VALUES ((julianday('now') - 2440587.5) * 86400.0, new.job_hash, new.step, new."index", NULL, new.state, new.reason);
END;

CREATE TRIGGER node_changed AFTER UPDATE OF state ON nodes WHEN old.state <> new.state BEGIN
    INSERT INTO events (at, job_hash, step, "index", old, new, reason)
    VALUES ((julianday('now') - 2440587.5) * 86400.0, new.job_hash, new.step, new."index", old.state, new.state, new.reason);
END;

CREATE TABLE tombstones (
    job_hash TEXT PRIMARY KEY,
    user     TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    deleted  REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- What users were charged. It outlives the jobs, or a delete would refund them.
CREATE TABLE ledger (
    id           INTEGER PRIMARY KEY,
    at           REAL NOT NULL,
    user         TEXT NOT NULL,
    job_hash     TEXT NOT NULL,
    core_seconds REAL NOT NULL DEFAULT 0 CHECK (core_seconds >= 0),
    result_bytes INTEGER NOT NULL DEFAULT 0 CHECK (result_bytes >= 0)
) STRICT;

CREATE INDEX ledger_by_user ON ledger (user, at);
