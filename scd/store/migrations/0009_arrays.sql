-- Attempts that are submitted to Slurm together: the job array's name, and which element of it an attempt is.

ALTER TABLE attempts ADD COLUMN array TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN element INTEGER NOT NULL DEFAULT 0;
