"""``scdctl``: what users of squeue and sacct expect, for scd."""
