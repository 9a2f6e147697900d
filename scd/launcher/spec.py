"""What a shim is told to run: computed from the configuration, never from what a client or a job says."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..runtimes import BOOT, PATH, Runtimes, command, job_environment
from .base import Work
from .batch import TEMPORARY_MARK
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


# Slurm's TERM goes to every process of a job. Only the batch job itself and the node are to obey: the sandbox, or the
# runner, would take the node's results with it.
_UNMOVED = ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh"]


class BatchScripts:
    """The batch scripts of attempts. All that one needs is in it, as data that no shell reads.

    Any Python can run it: that of the runtime is taken, which compute nodes have anyway.
    """

    def __init__(self, config: Config, runtimes: Runtimes, sandboxes: Mapping[str, Sandbox]):
        self._config = config
        self._runtimes = runtimes
        self._sandboxes = sandboxes

    def write(self, work: Work, order: Mapping[str, Any], place: Path) -> str:
        chosen, versions = self._runtimes.get(work.runtime)
        sandbox, directory = self._sandboxes.get(chosen.name), work.directory
        runner = command(chosen, "scd.runner.serve")
        settings = {**_settings(self._config, work, sandbox is not None), "packages": versions.packages, "places": {}}
        spec = {
            "sandbox": [*_UNMOVED, *sandbox.argv(str(directory.work), TEMPORARY_MARK)] if sandbox else [],
            "runner": runner if sandbox else [*_UNMOVED, *runner],
            "settings": settings,
            "env": job_environment(chosen, str(directory.work)) | ({"TMPDIR": TEMPORARY} if sandbox else {}),
            "root": str(directory.work),
        }
        task = {"place": str(place), "archives": str(directory.archives), "spec": spec, "order": order}
        batch = shlex.join([chosen.python, "-I", "-S", str(BOOT), "scd.launcher.batch"])
        return (
            f"#!/bin/sh\nexport PATH={PATH} LANG=C.UTF-8\nexec {batch} <<'END-OF-TASK'\n"
            f"{json.dumps(task, separators=(',', ':'))}\nEND-OF-TASK\n"
        )


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
