"""What a runner is told to do for an attempt, wherever it runs."""

from typing import Any, Protocol

from ..model import NodeKey
from ..spool import JobDirectory


class Ordered(Protocol):
    """Of executors.base.Spec what a runner needs, as whoever asks for it may have it."""

    @property
    def name(self) -> str: ...
    @property
    def archive(self) -> str: ...
    @property
    def key(self) -> NodeKey | None: ...
    @property
    def generation(self) -> int: ...
    @property
    def unpack(self) -> bool: ...
    @property
    def rebuilt(self) -> bool: ...
    @property
    def ancestors(self) -> tuple[tuple[str, str, str], ...]: ...


def order(attempt: Ordered, directory: JobDirectory) -> dict[str, Any]:
    found: dict[str, Any] = {"name": attempt.name, "archive": attempt.archive}
    if attempt.key is None:
        found |= {"op": "prepare", "manifest": str(directory.manifest(attempt.generation))}
        if attempt.unpack:
            rebuilt = directory.rebuilt_import(attempt.generation)
            found["import"] = str(rebuilt if attempt.rebuilt else directory.import_archive)
        return found
    return found | {
        "op": "node", "step": attempt.key.step, "index": attempt.key.index, "ancestors": attempt.ancestors,
    }  # fmt: skip
