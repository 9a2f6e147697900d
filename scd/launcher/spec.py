"""What a shim is told to run: computed from the configuration, never from what a client or a job says."""

import os
import shlex
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ..config import Config, Runtime
from ..runtimes import BOOT, PATH, Runtimes, command, job_environment
from .base import Work
from .claims import SLURM
from .furnish import ETC_MARK, TEMPORARY_MARK
from .sandbox import TEMPORARY, Sandbox, etc_files

SHIM_ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}
SHIM = [sys.executable, "-I", "-S", str(BOOT), "scd.launcher.shim"]


def shim_argv(work: Work) -> list[str]:
    return [*SHIM, str(work.directory.control)]


def shim_spec(
    config: Config, runtimes: Runtimes, sandbox: Sandbox | None, work: Work,
    *, daemon_uid: int, cgroup: Path | None, places: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of ``shim.json``. The shim has a ``cgroup`` of its own, or none.

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
        "cgroup": str(cgroup or ""),
    }  # fmt: skip


PROBE, PROBE_COMMENT = "0.1", "scdctl doctor"  # the attempt that it makes, and what Slurm is told of it

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
        self._spec = lru_cache(16)(self._make_spec)  # which nodes of a job share

    def write(self, work: Work, order: Mapping[str, Any], attempt: str, inodes: Mapping[str, int] | None = None) -> str:
        """``attempt`` is the name of its directory. Called as the account that the batch job will have.

        ``inodes`` if the job has an account of its own: those of control, archives and work. The daemon, whose account
        reads what the batch job writes, could rename them.
        """
        chosen, spec = self._spec(work)
        return self._script(chosen, work, inodes, {"place": f"{SLURM}/{attempt}", "spec": spec, "order": order})

    def write_array(
        self, work: Work, orders: Mapping[int, tuple[str, Mapping[str, Any]]], inodes: Mapping[str, int] | None = None
    ) -> str:
        """One script for attempts that differ in little: by their number the attempt's name and its order."""
        chosen, spec = self._spec(work)
        first = next(iter(orders.values()))[1]
        own = ("name", "archive", "step", "index")
        elements = {
            number: {"place": f"{SLURM}/{attempt}", "order": {key: order[key] for key in own}}
            for number, (attempt, order) in orders.items()
        }
        common = {key: value for key, value in first.items() if key not in own}
        return self._script(chosen, work, inodes, {"spec": spec, "order": common, "elements": elements})

    def _make_spec(self, work: Work) -> tuple[Runtime, dict[str, Any]]:
        chosen, versions = self._runtimes.get(work.runtime)
        sandbox, directory = self._sandbox(chosen.name), work.directory
        runner = command(chosen, "scd.runner.serve")
        settings = {**_settings(self._config, work, sandbox is not None), "packages": versions.packages, "places": {}}
        return chosen, {
            "sandbox": [*_UNMOVED, *sandbox.argv(str(directory.work), TEMPORARY_MARK)] if sandbox else [],
            "runner": runner if sandbox else [*_UNMOVED, *runner],
            "settings": settings,
            "env": job_environment(chosen, str(directory.work)) | ({"TMPDIR": TEMPORARY} if sandbox else {}),
            "root": str(directory.work),
        }

    def probe(self, work: Work, inodes: Mapping[str, int] | None = None) -> str:
        """As ``write``; it asks the first runtime what it has, in its sandbox, and leaves the answer as its record."""
        runtime, _ = next(iter(self._runtimes))
        sandbox, root = self._sandbox(runtime.name), str(work.directory.work)
        spec = {
            "sandbox": sandbox.argv(root, TEMPORARY_MARK) if sandbox else [],
            "runner": command(runtime, "scd.runner.probe", "--brief"),
            "settings": {},
            "env": job_environment(runtime, root) | {"TMPDIR": TEMPORARY},
            "root": root,
        }
        return self._script(runtime, work, inodes, {"place": f"{SLURM}/{PROBE}", "spec": spec})

    def _sandbox(self, runtime: str) -> Sandbox | None:
        """Its files in /etc are made where it is."""
        sandbox = self._sandboxes.get(runtime)
        return None if sandbox is None else sandbox._replace(etc=ETC_MARK)

    def _script(self, runtime: Runtime, work: Work, inodes: Mapping[str, int] | None, more: Mapping[str, Any]) -> str:
        task = {
            "control": str(work.directory.control), "inodes": inodes or {},
            "umask": 0o077 if inodes is None else 0o027, "etc": etc_files(os.geteuid(), os.getegid()), **more,
        }  # fmt: skip
        batch = shlex.join([runtime.python, "-I", "-S", str(BOOT), "scd.launcher.batch"])
        return (
            f"#!/bin/sh\nexport PATH={PATH} LANG=C.UTF-8\nexec {batch} <<'END-OF-TASK'\n"
            f"{msgspec.json.encode(task).decode()}\nEND-OF-TASK\n"
        )


def _settings(config: Config, work: Work, sandboxed: bool) -> dict[str, object]:
    """``scd.runner.job.Settings``."""
    return {
        "root": str(work.directory.work),
        "job_hash": work.job_hash,
        "design": work.design,
        "jobname": work.jobname,
        "cache": config.paths.cache,
        "max_unpacked": int(config.server.max_unpacked),
        "max_members": config.server.max_members,
        "max_ratio": config.server.max_ratio,
        "min_free": int(config.paths.min_free),
        # Without a sandbox the kernel would count all of the account's.
        "max_processes": config.local.processes if sandboxed else 0,
    }
