-- Where a job is prepared; what the executor calls an attempt, and how much memory it asked for.

ALTER TABLE jobs ADD COLUMN executor TEXT NOT NULL DEFAULT 'local';
ALTER TABLE attempts ADD COLUMN handle TEXT;                              -- Slurm's job id
ALTER TABLE attempts ADD COLUMN memory INTEGER CHECK (memory >= 0);      -- bytes
