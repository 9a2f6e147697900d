"""``scd-demo``: a private daemon, a bundled design, the real client."""
