"""All that a job sees of an environment. What the daemon was started with, and may hold secrets, is no part of it."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def job_environment(home: str) -> dict[str, str]:
    """But for TMPDIR: whoever makes that directory adds it."""
    return {"PATH": PATH, "HOME": home, "USER": "scd", "LOGNAME": "scd", "LANG": "C.UTF-8"}
