"""Where a job's files lie, and its project as SiliconCompiler loads it."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PREPARED = "sc_prepared.pkg.json"  # SiliconCompiler's own clean-up leaves files with this prefix alone

_MAX_ERRORS = 20
_MAX_REASON = 300
_BACKTRACE = "Backtrace:"

UPDATED_STATUSES = ("success", "error", "skipped", "timeout")


class Settings(NamedTuple):
    """The first message to the runner."""

    root: str  # the one directory that the job may write
    job_hash: str
    design: str
    jobname: str
    cache: str
    max_unpacked: int  # bytes
    max_members: int
    max_ratio: int
    min_free: int  # bytes that an upload leaves on the disk
    max_processes: int  # and threads, of the whole job; 0: no limit but the system's
    packages: Sequence[str]  # of this Python, for the jobs' records
    places: Mapping[str, Sequence[int]]  # device and inode of what must be at these paths

    @property
    def builddir(self) -> Path:
        return Path(self.root) / self.job_hash

    @property
    def jobdir(self) -> Path:
        return self.builddir / self.design / self.jobname

    def workdir(self, step: str, index: str) -> Path:
        return self.jobdir / step / index

    def side_journal(self, step: str, index: str) -> Path:
        """A node's journal alone: kilobytes where its manifest has megabytes."""
        return self.jobdir / f"sc_journal_{step}_{index}.json"


def load(settings: Settings) -> Any:
    """The prepared project. Loaded once and inherited by every node through fork."""
    from siliconcompiler import Project

    own_tool_caches(settings)
    # All of it now: what is loaded lazily would be loaded again in each node.
    return Project.from_manifest(filepath=str(settings.jobdir / PREPARED), lazyload=False)


def own_tool_caches(settings: Settings) -> None:
    """What tools keep from one node to the next lies in the job's own directory: the site's cache is read-only."""
    from siliconcompiler.utils import paths

    if hasattr(paths, "toolcachedir") and not os.access(settings.cache, os.W_OK):  # from 0.38 on
        paths.toolcachedir = lambda _: f"{settings.root}/tools"


def write_aside(path: Path, data: bytes) -> None:
    """Whole or not at all, for readers. Not for power cuts: the daemon trusts nothing in here."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.rename(path)


class LastErrors(logging.Handler):
    """SiliconCompiler's errors as logged: the cause of a refusal is only there, its exceptions say nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().strip()
        if line and line not in self.lines:
            self.lines.append(line)

    def text(self) -> str:
        return "\n".join(self.lines[-_MAX_ERRORS:])

    def last(self) -> str:
        """The newest error that names a cause; what stands behind a "Backtrace:" does not."""
        end = self.lines.index(_BACKTRACE) if _BACKTRACE in self.lines else len(self.lines)
        causes = [line.splitlines()[0] for line in self.lines[:end] if not line.startswith("Halting ")]
        return causes[-1][:_MAX_REASON] if causes else ""
