"""[slurm], what leads to it, and [licenses]."""

import os
import re
from collections.abc import Iterator

from ..sections import Config

_SLURM_RANGES = (
    ("cores", 1, 4096), ("max_cores", 0, 4096), ("memory_on_oom", 1, 16), ("poll_interval", 1, 60),
    ("record_timeout", 15, 3600), ("parallel", 1, 64),
)  # fmt: skip
_OPTION = re.compile(r"--[a-z][a-z0-9-]{1,40}")
# What scd gives itself, what would run something else or as somebody else, and what makes many jobs of one.
_OWN_OPTIONS = frozenset({
    "--account", "--array", "--begin", "--chdir", "--clusters", "--comment", "--cpus-per-task", "--error", "--export",
    "--export-file", "--get-user-env", "--gid", "--hold", "--input", "--job-name", "--mem", "--nodes", "--ntasks",
    "--open-mode", "--output", "--parsable", "--partition", "--requeue", "--no-requeue", "--propagate", "--time",
    "--uid", "--wait", "--wrap", "--bb", "--bbf", "--test-only", "--quiet", "--verbose", "--help", "--usage",
    "--version", "--ignore-pbs", "--kill-on-invalid-dep", "--time-min", "--mem-per-cpu", "--mem-per-gpu",
})  # fmt: skip
_LICENSE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SLURM_LICENSE = re.compile(r"[A-Za-z0-9_.-]{1,64}(@[A-Za-z0-9_.-]{1,64})?")
_TOOL = re.compile(r"[^/\s]+(/[^/\s]+)?")


def slurm(config: Config) -> Iterator[tuple[str, str]]:
    slurm = config.slurm
    if slurm is None:
        if config.dispatch.default == "slurm":
            yield "dispatch.default", "is slurm, and there is no [slurm] (an empty table will do)"
        if any(route.executor == "slurm" for route in config.dispatch.route):
            yield "dispatch.route", "leads to slurm, and there is no [slurm] (an empty table will do)"
        return
    if slurm.conf and not os.access(slurm.conf, os.R_OK):
        yield "slurm.conf", f"{slurm.conf} cannot be read"
    for option in slurm.allow_options:
        if not _OPTION.fullmatch(option):
            yield "slurm.allow_options", f"{option!r} is not a long option of sbatch, as --constraint"
        elif option in _OWN_OPTIONS:
            yield "slurm.allow_options", f"{option} is scd's own to give, or another key's: nobody else may"
    for key, least, most in _SLURM_RANGES:
        if not least <= getattr(slurm, key) <= most:
            yield f"slurm.{key}", f"must be {least} to {most}"


def licenses(config: Config) -> Iterator[tuple[str, str]]:
    owners: dict[str, str] = {}
    for name, wanted in config.licenses.items():
        if not _LICENSE.fullmatch(name):
            yield f"licenses.{name}", "a licence's name holds letters, digits and _.-"
        if wanted.count < 0:
            yield f"licenses.{name}.count", "must be 0 (no node may have one) or more"
        if wanted.slurm and not _SLURM_LICENSE.fullmatch(wanted.slurm):
            yield f"licenses.{name}.slurm", f"{wanted.slurm!r} is not a licence as Slurm has it: vcs, or vcs@server"
        for tool in wanted.tools:
            if not _TOOL.fullmatch(tool):
                yield f"licenses.{name}.tools", f"{tool!r} is not a tool as vcs, or one task of it as calibre/drc"
            elif owners.setdefault(tool, name) != name:
                yield f"licenses.{name}.tools", f"{tool} needs {owners[tool]} already: a node holds one licence"
    if config.licenses and config.slurm is not None and "--licenses" in config.slurm.allow_options:
        yield "slurm.allow_options", "--licenses is scd's own to give, since there are [licenses]"
