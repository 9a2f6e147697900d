"""The files that a client collected, under the names that this SiliconCompiler looks for.

A client of 0.37 makes a file's name of its own and a hash of its dataroot's name and its directory; later ones put it
into a directory that is named otherwise. Without this an older client's files would not be found.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any


def adopt(project: Any, collection: Path) -> None:
    """Link what an older client collected to where it is looked for. Does nothing for other imports."""
    from siliconcompiler.schema.parametervalue import PathNodeValue

    newer_name = getattr(PathNodeValue, "generate_hashed_collection_path", None)
    if newer_name is None or not collection.is_dir():
        return
    found = set(os.listdir(collection))
    for key, path, dataroot in _paths(project):
        for start in _starts(path):
            older = _older_name(start, dataroot)
            if older in found:
                resolvers = project.get(*key[:-1], field="schema")._find_files_dataroot_resolvers(True)
                place = collection / newer_name(str(start), resolvers[dataroot].collection_id if dataroot else None)
                place.parent.mkdir(exist_ok=True)
                if not place.exists():
                    place.symlink_to(os.path.relpath(collection / older, place.parent))


def _paths(project: Any) -> Iterator[tuple[tuple[str, ...], PurePosixPath, str | None]]:
    """(keypath, path, name of its dataroot) of every path in a project."""
    for key in project.allkeys():
        param = project.get(*key, field=None)
        if key[0] == "history" or not param.is_path:
            continue
        for _, step, index in param.getvalues():
            paths = _listed(param.get(step=step, index=index))
            dataroots = _listed(param.get(field="dataroot", step=step, index=index))
            for path, dataroot in zip(paths, dataroots, strict=False):
                if path:
                    yield key, PurePosixPath(path), dataroot


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _starts(path: PurePosixPath) -> Iterator[PurePosixPath]:
    """A path and the directories above it, since one of them may have been collected whole."""
    yield from (PurePosixPath(*path.parts[:length]) for length in range(1, len(path.parts) + 1))


def _older_name(path: PurePosixPath, dataroot: str | None) -> str:
    """``PathNodeValue.generate_hashed_path`` of SiliconCompiler 0.37."""
    bare = path
    while bare.suffix:
        bare = PurePosixPath(bare.stem)
    origin = f"{dataroot}:{path.parent}" if dataroot else str(path.parent)
    digest = hashlib.sha1(origin.encode(), usedforsecurity=False).hexdigest()
    return f"{bare.parts[-1] if bare.parts else ''}_{digest}{''.join(path.suffixes)}"
