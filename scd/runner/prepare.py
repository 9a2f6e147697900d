"""Everything SiliconCompiler does before it launches a node: unpack, check, set up, plan. Once a job.

``Scheduler.run()`` is SiliconCompiler's own, with ``run_core()``, the launch of the nodes, replaced: by then every
check has passed and the project is as the first node must find it.
"""

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..archive import pack, remove_tree
from ..tar import Refused
from ..unpack import Limits, unpack
from . import packages
from .child import print_error
from .collected import adopt
from .job import PREPARED, LastErrors, Settings, own_tool_caches, write_aside

_SETUP = "sc_setup.pkg.json"
_COLLECTED = "sc_collected_files"


class Rejected(Exception):
    """The job cannot run here. The text is for the user."""


def prepare(
    settings: Settings,
    manifest: IO[bytes],
    archive: IO[bytes],
    upload: IO[bytes] | None,
    on_prepared: Callable[[], None],
) -> tuple[dict[str, Any], float]:
    """The plan of the job, and the seconds that unpacking took. Raises Rejected.

    Writes the prepared manifest and the archive of the set-up one.

    ``on_prepared`` is called once the prepared manifest can be read, while the plan is still being made.
    """
    begun = time.monotonic()
    if upload is not None and settings.jobdir.exists():  # of a preparation that was lost in its middle
        remove_tree(settings.jobdir)
    settings.jobdir.mkdir(parents=True, exist_ok=True)
    if upload is not None:
        limits = Limits(settings.max_unpacked, settings.max_members, settings.max_ratio, min_free=settings.min_free)
        try:
            unpack(upload, settings.jobdir, limits)
        except Refused as refusal:
            raise Rejected(f"The upload was refused: {refusal}.") from None
        except OSError as error:
            raise Rejected(f"The upload could not be unpacked: {error.strerror}.") from None
    unpacked = time.monotonic() - begun
    errors, missing = LastErrors(), packages.watch(settings.cache)
    try:
        project = _load(settings, json.load(manifest))
        schedulers = _take_schedulers(project)
        project.logger.addHandler(errors)
        adopt(project, settings.jobdir / _COLLECTED)
        plan = _run(settings, project, on_prepared)
    except Rejected:
        raise
    except Exception as error:  # whatever a manifest can do to SiliconCompiler is the manifest's fault
        print_error()
        raise Rejected(
            packages.explain(missing)
            or errors.text()
            or f"SiliconCompiler failed at the job: {type(error).__name__}: {error}"
        ) from error
    for node in plan["nodes"] if plan else ():
        node["scheduler"] = schedulers[node["step"], node["index"]]
    if plan is None:
        raise Rejected(packages.explain(missing) or errors.text() or "SiliconCompiler did not prepare the job.")
    # The client wants the manifest as set up, with its journal; run() has put the history in its place.
    setup = settings.jobdir / f"{settings.design}.pkg.json"
    (settings.jobdir / _SETUP).replace(setup)
    pack(archive, Path(settings.root), [setup])
    return plan, unpacked


def _load(settings: Settings, cfg: dict[str, Any]) -> Any:
    from siliconcompiler import Project

    own_tool_caches(settings)
    project = Project.from_manifest(cfg=cfg)
    option = project.option
    option.set_nodashboard(True)
    option.set_nodisplay(True)
    option.set_quiet(True)
    option.set_remote(False)
    option.set_jobincr(False)  # the client has counted up already; the directory exists
    option.set_builddir(str(settings.builddir))
    option.set_cachedir(settings.cache)
    option.unset("credentials")
    if (project.name, option.get_jobname()) != (settings.design, settings.jobname):
        raise Rejected("The manifest names its design or jobname in two ways.")
    project.set("record", "remoteid", settings.job_hash)
    if missing := _missing_tasks(_flow(project)):
        raise Rejected(
            "This server's SiliconCompiler lacks the task modules of these nodes: "
            + ", ".join(missing)
            + ". Use tasks of a package that the server has (a class of your own script cannot travel)."
        )
    return project


def _take_schedulers(project: Any) -> dict[tuple[str, str], str | None]:
    """Where each node is to run. The project forgets it: a node must never dispatch again."""
    scheduler = project.option.scheduler
    found = {(step, index): scheduler.get_name(step=step, index=index) for step, index in _flow(project).get_nodes()}
    for _, step, index in scheduler.get("name", field=None).getvalues():
        scheduler.unset("name", step=step, index=index)
    return found


def _missing_tasks(flow: Any) -> list[str]:
    missing = []
    for step, index in flow.get_nodes():
        name = flow.get(step, index, "taskmodule")
        module, _, cls = str(name or "").partition("/")
        try:
            found = not name or (module != "__main__" and hasattr(importlib.import_module(module), cls))
        except ImportError:
            found = False
        if not found:
            missing.append(f"{step}/{index} ({name})")
    return missing


def _run(settings: Settings, project: Any, on_prepared: Callable[[], None]) -> dict[str, Any] | None:
    from siliconcompiler.flowgraph import RuntimeFlowgraph
    from siliconcompiler.scheduler import Scheduler

    option = project.option
    visible = set(
        RuntimeFlowgraph(
            _flow(project), from_steps=option.get_from(), to_steps=option.get_to(), prune_nodes=option.get_prune()
        ).get_nodes()
    )
    plans: list[dict[str, Any]] = []

    class Preparation(Scheduler):  # type: ignore[misc]
        def _listeners(self) -> list[Any]:
            return []  # no dashboard, no mail

        def run_core(self) -> None:
            project.set("record", "pythonpackage", list(settings.packages))
            project.write_manifest(str(settings.jobdir / PREPARED))
            on_prepared()
            write_aside(settings.jobdir / _SETUP, Path(self.manifest).read_bytes())
            plans.append(_plan(project, visible))
            project._record_history = lambda: None  # nothing has run: there is no history to keep

    Preparation(project).run()
    return plans[0] if plans else None


def _plan(project: Any, visible: set[tuple[str, str]]) -> dict[str, Any]:
    """The nodes in execution order. Field names are those of ``scd.model.PlanNode``."""
    import siliconcompiler
    from siliconcompiler.flowgraph import RuntimeFlowgraph

    flow, option = _flow(project), project.option
    record = project.get("record", field="schema")
    runtime = RuntimeFlowgraph(
        flow, from_steps=option.get_from(), to_steps=option.get_to(), prune_nodes=option.get_prune()
    )
    # The dependencies within the whole flow; with the record, skipped nodes are looked through.
    whole = RuntimeFlowgraph(
        flow, from_steps={step for step, _ in flow.get_entry_nodes()}, prune_nodes=option.get_prune()
    )
    nodes = []
    for level, keys in enumerate(runtime.get_execution_order()):
        for step, index in keys:
            nodes.append(
                {
                    "step": step,
                    "index": index,
                    "level": level,
                    "status": record.get("status", step=step, index=index),
                    "inputs": [list(key) for key in whole.get_node_inputs(step, index, record=record)],
                    "visible": (step, index) in visible,
                    **_node_facts(project, flow, step, index),
                }
            )
    return {
        "design": project.name,
        "jobname": option.get_jobname(),
        "flow": flow.name,
        "maxnodes": option.scheduler.get_maxnodes(),
        "exit_nodes": [list(key) for key in runtime.get_exit_nodes()],
        "sc_version": siliconcompiler.__version__,
        "nodes": nodes,
    }


def _node_facts(project: Any, flow: Any, step: str, index: str) -> dict[str, Any]:
    from siliconcompiler.scheduler import SchedulerNode

    node = SchedulerNode(project, step, index)
    with node.runtime():
        threads, has_breakpoint = node.task.get("threads"), bool(node.task.has_breakpoint())
    tool = flow.get(step, index, "tool")
    scheduler = project.option.scheduler
    return {
        "builtin": tool == "builtin",
        "breakpoint": has_breakpoint,
        "continue": bool(project.option.get_continue(step=step, index=index)),
        "cores": threads or scheduler.get_cores(step=step, index=index),
        "timeout": project.option.get_timeout(step=step, index=index),
        "tool": tool,
        "task": flow.get(step, index, "task"),
        "memory": scheduler.get_memory(step=step, index=index),
        "queue": scheduler.get_queue(step=step, index=index),
        "defer": scheduler.get_defer(step=step, index=index),
        "options": scheduler.get_options(step=step, index=index),
    }


def _flow(project: Any) -> Any:
    return project.get("flowgraph", project.option.get_flow(), field="schema")
