"""What a runner is told to do for an attempt, wherever it runs."""

from typing import Any

from ..spool import JobDirectory
from .base import Spec


def order(spec: Spec, directory: JobDirectory) -> dict[str, Any]:
    found: dict[str, Any] = {"name": spec.name, "archive": spec.archive}
    if spec.key is None:
        found |= {"op": "prepare", "manifest": str(directory.manifest(spec.generation))}
        if spec.unpack:
            rebuilt = directory.rebuilt_import(spec.generation)
            found["import"] = str(rebuilt if spec.rebuilt else directory.import_archive)
        return found
    return found | {"op": "node", "step": spec.key.step, "index": spec.key.index, "ancestors": spec.ancestors}
