"""One node of a prepared flowgraph, in the process that was forked for it."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..archive import pack
from .job import UPDATED_STATUSES, LastErrors, Settings, write_aside

Ancestor = Sequence[str]  # step, index, status


def run(settings: Settings, project: Any, step: str, index: str, ancestors: Sequence[Ancestor]) -> tuple[str, int, str]:
    """The node's status, exit code and, if it failed, its last error. The project is this process's own copy."""
    from siliconcompiler.scheduler import SchedulerNode

    _replay(settings, project, ancestors)
    errors = LastErrors()
    project.logger.addHandler(errors)
    code = 0
    try:
        node = SchedulerNode(project, step, index)
        flow = project.get("flowgraph", project.option.get_flow(), field="schema")
        if flow.get(step, index, "tool") == "builtin":
            node.set_builtin()
        getattr(node, "run_process", node.run)()  # run_process: from 0.38 on
    except SystemExit as stop:  # SchedulerNode.halt(): the manifest is written
        code = stop.code if isinstance(stop.code, int) else 1
    status = project.get("record", "status", step=step, index=index)
    if code or status not in UPDATED_STATUSES:
        status = "error"
    _save_journal(settings, step, index)
    return status, code, "" if status in ("success", "skipped") else errors.last()


def salvage(settings: Settings, project: Any | None, step: str, index: str) -> None:
    """Give a node that died without an output manifest one that says so: the client shows it as pending otherwise."""
    manifest = settings.workdir(step, index) / "outputs" / f"{settings.design}.pkg.json"
    if project is None or manifest.exists():
        return
    from siliconcompiler.schema import Journal

    manifest.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal.access(project)
    journal.start()
    project.set("record", "status", "error", step=step, index=index)
    project.write_manifest(str(manifest))
    journal.stop()


def archive(settings: Settings, step: str, index: str, target: IO[bytes]) -> None:
    """The node's directory as the client expects it: without top-level dotfiles."""
    workdir = settings.workdir(step, index)
    entries = sorted(workdir.iterdir()) if workdir.is_dir() else []
    pack(target, Path(settings.root), [entry for entry in entries if not entry.name.startswith(".")])


def tail(settings: Settings, step: str, index: str, offset: int, limit: int) -> dict[str, Any]:
    """Up to ``limit`` bytes of the node's live log as text, from ``offset`` on; a negative one counts from the end."""
    path = settings.workdir(step, index) / f"sc_{step}_{index}.log"
    with open(path, "rb") as file:
        offset = file.seek(offset if offset >= 0 else max(0, os.fstat(file.fileno()).st_size + offset))
        data = file.read(limit)
    return {"text": data.decode(errors="replace"), "offset": offset + len(data)}


def _replay(settings: Settings, project: Any, ancestors: Sequence[Ancestor]) -> None:
    """What the nodes before this one changed in the project: metrics, records, outputs."""
    from siliconcompiler.schema import Journal

    for step, index, status in ancestors:
        with contextlib.suppress(OSError, ValueError, KeyError):
            journal = Journal()
            journal.from_dict(json.loads(settings.side_journal(step, index).read_bytes()))
            journal.replay(project)
        # The scheduler's word is final: a killed node leaves a stale journal or none.
        project.set("record", "status", status, step=step, index=index)


def _save_journal(settings: Settings, step: str, index: str) -> None:
    manifest = settings.workdir(step, index) / "outputs" / f"{settings.design}.pkg.json"
    with contextlib.suppress(OSError, ValueError):
        journal = json.loads(manifest.read_bytes()).get("__journal__", [])
        write_aside(settings.side_journal(step, index), json.dumps(journal).encode())
