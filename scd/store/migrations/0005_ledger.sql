-- How long what is charged took until `at`: a node that ran over the end of a period counts in both, each its part.

ALTER TABLE ledger ADD COLUMN elapsed REAL NOT NULL DEFAULT 0 CHECK (elapsed >= 0);
