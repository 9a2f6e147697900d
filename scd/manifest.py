"""The few things the daemon reads in a manifest, as plain data.

Nothing that a manifest names is imported or opened here. The JSON layout is SiliconCompiler's: a parameter is
``{"node": {step: {index: {"value": ...}}}}``, its global value under ``"*"`` (``"global"`` before 0.38.0) or, when
it was never set, only under ``"default"``.
"""

import re
from typing import Any

import msgspec

from .errors import BadRequest
from .model import NodeKey

_GLOBAL = ("*", "global", "default")
_NOT_NODES = frozenset({"default", "__meta__"})
# Keys of a check_progress answer itself: a node of that name would overwrite them.
_RESERVED = frozenset({"status", "message", "null"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_NAME = 128
# Never run by scd, whatever the site: they would dispatch a second time, past its limits.
_FOREIGN_SCHEDULERS = frozenset({"docker", "lsf", "sge"})


class Parameter(msgspec.Struct):
    node: dict[str, dict[str, msgspec.Raw]]


class _Value(msgspec.Struct):
    value: Any = None


class _Scheduler(msgspec.Struct):
    name: Parameter | None = None


class _Option(msgspec.Struct):
    flow: Parameter
    jobname: Parameter
    design: Parameter
    scheduler: _Scheduler | None = None


class _Cfg(msgspec.Struct):
    schemaversion: Parameter
    option: _Option
    flowgraph: dict[str, msgspec.Raw]


class Manifest(msgspec.Struct, frozen=True):
    """The checked summary of an uploaded manifest."""

    schema_version: str
    design: str
    jobname: str
    flow: str
    nodes: tuple[NodeKey, ...]
    schedulers: frozenset[str]


def decode(raw: bytes | msgspec.Raw) -> Manifest:
    """The summary of a manifest, every name in it safe to be a path component.

    Raises BadRequest with a text for the user.
    """
    try:
        cfg = msgspec.json.decode(raw, type=_Cfg)
        flow = check_name(_text(cfg.option.flow, "option,flow"), "flow")
        if flow not in cfg.flowgraph or flow in _NOT_NODES:
            raise BadRequest(f"The manifest selects the flow {flow!r} but does not hold it.")
        steps = msgspec.json.decode(cfg.flowgraph[flow], type=dict[str, msgspec.Raw])
        nodes = tuple(
            NodeKey(check_name(step, "step"), check_name(index, "index"))
            for step, indexes in steps.items()
            if step not in _NOT_NODES
            for index in msgspec.json.decode(indexes, type=dict[str, msgspec.Raw])
            if index not in _NOT_NODES
        )
        manifest = Manifest(
            schema_version=_text(cfg.schemaversion, "schemaversion"),
            design=check_name(_text(cfg.option.design, "option,design"), "design"),
            jobname=check_name(_text(cfg.option.jobname, "option,jobname"), "jobname"),
            flow=flow,
            nodes=nodes,
            schedulers=_schedulers(cfg.option.scheduler),
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The manifest is not one of SiliconCompiler: {error}.") from None
    except RecursionError:
        raise BadRequest("The manifest is nested too deeply.") from None
    _check_nodes(manifest)
    return manifest


def check_name(name: str, what: str) -> str:
    """``name`` if it may become a directory name, else BadRequest."""
    if not name or len(name.encode(errors="replace")) > _MAX_NAME:
        raise BadRequest(f"The {what} must have 1 to {_MAX_NAME} characters.")
    if name in (".", "..") or "/" in name or "\\" in name or _CONTROL.search(name):
        raise BadRequest(f"The {what} {name!r} cannot be a directory name.")
    return name


def _check_nodes(manifest: Manifest) -> None:
    if not manifest.nodes:
        raise BadRequest(f"The flow {manifest.flow!r} has no nodes.")
    seen: dict[str, NodeKey] = {}
    for key in manifest.nodes:
        if key.name in _RESERVED:
            raise BadRequest(
                f"A node may not be called {key.name!r}: the protocol uses that word. Rename step {key.step!r}."
            )
        if key.name in seen:
            raise BadRequest(
                f"The nodes {seen[key.name]} and {key} are both {key.name!r} to the client. Rename one of the steps."
            )
        seen[key.name] = key
    if foreign := sorted(manifest.schedulers & _FOREIGN_SCHEDULERS):
        raise BadRequest(
            f"This server does not run nodes by the scheduler {foreign[0]!r}. "
            "Unset option,scheduler,name and submit again."
        )


def _schedulers(scheduler: _Scheduler | None) -> frozenset[str]:
    if scheduler is None or scheduler.name is None:
        return frozenset()
    raws = (raw for indexes in scheduler.name.node.values() for raw in indexes.values())
    values = (msgspec.json.decode(raw, type=_Value).value for raw in raws)
    return frozenset(value for value in values if isinstance(value, str))


def _text(parameter: Parameter, key: str) -> str:
    """The global value of a parameter that must be a string."""
    for step in _GLOBAL:
        for index in _GLOBAL:
            raw = parameter.node.get(step, {}).get(index)
            if raw is not None:
                value = msgspec.json.decode(raw, type=_Value).value
                if isinstance(value, str) and value:
                    return value
    raise BadRequest(f"The manifest has no value for {key}.")
