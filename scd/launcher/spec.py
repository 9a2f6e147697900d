"""What a shim is told to run: computed from the configuration, never from what a client or a job says."""

import sys
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..runtimes import BOOT, PATH, Runtimes, command, job_environment
from .base import Work
from .sandbox import TEMPORARY, Sandbox

SHIM_ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}


def shim_argv(work: Work) -> list[str]:
    return [sys.executable, "-I", "-S", str(BOOT), "scd.launcher.shim", str(work.directory.control)]


def shim_spec(
    config: Config, runtimes: Runtimes, sandbox: Sandbox | None, work: Work,
    *, daemon_uid: int, places: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of ``shim.json``.

    ``places`` if the shim has an account of its own: by their paths in the sandbox the device and the inode of what
    must be there. The daemon could have renamed something before the sandbox was made.
    """
    directory = work.directory
    chosen, versions = runtimes.get(work.runtime)
    return {
        "sandbox": sandbox.argv(str(directory.work), str(directory.temporary)) if sandbox else [],
        "runner": command(chosen, "scd.runner.serve"),
        "settings": {
            **_settings(config, work, sandbox is not None), "packages": versions.packages, "places": places or {},
        },
        "env": job_environment(chosen, str(directory.work)) | ({"TMPDIR": TEMPORARY} if sandbox else {}),
        "temporary": str(directory.temporary) if sandbox else None,
        "root": str(directory.work),
        "archives": str(directory.archives),
        "daemon_uid": daemon_uid,
        "shared": places is not None,
    }  # fmt: skip


def _settings(config: Config, work: Work, sandboxed: bool) -> dict[str, object]:
    """``scd.runner.job.Settings``."""
    return {
        "root": str(work.directory.work),
        "job_hash": work.job_hash,
        "design": work.design,
        "jobname": work.jobname,
        "cache": config.paths.cache,
        "max_unpacked": config.server.max_unpacked,
        "max_members": config.server.max_members,
        "max_ratio": config.server.max_ratio,
        "min_free": config.paths.min_free,
        # Without a sandbox the kernel would count all of the account's.
        "max_processes": config.local.processes if sandboxed else 0,
    }
