"""``scdctl doctor --slurm``: submits a batch job as the daemon would, and says what is in its way."""

import argparse
import asyncio
import os
import pwd
import secrets
import shlex
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from ..config import DEFAULT_FILE, Config
from ..errors import ConfigError, ScdError
from ..executors import slurm_cli as cli
from ..executors.controller import Controller
from ..executors.slurm_cli import QueueRow, Verdict
from ..executors.slurm_words import waiting
from ..launcher.isolation import isolate
from ..launcher.sandbox import Sandbox
from ..placement import Misplaced, check, preparation
from ..runtimes import PATH, Runtimes, command
from .reading import NoDatabase
from .table import clean, print_json

_PATIENCE = 120.0
_LATE = 15.0  # a shared file system may be
_DONE = "done"


class Unwell(ScdError):
    """Nodes cannot run in Slurm."""


class Finding(msgspec.Struct, frozen=True):
    """``remedy`` is what to do; empty where there is nothing to mend."""

    good: bool
    text: str
    remedy: str = ""


async def doctor(config: Config, arguments: argparse.Namespace) -> None:
    """Raises Unwell if anything is bad."""
    _become_account(config)
    findings = [finding async for finding in examine(config, (arguments.config or DEFAULT_FILE).absolute())]
    if arguments.json:
        print_json({"version": 1, "findings": [msgspec.structs.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
            print(clean(f"{'good' if finding.good else 'bad '}  {finding.text}") + remedy)
    if not all(finding.good for finding in findings):
        raise Unwell


def _become_account(config: Config) -> None:
    """scd's own, for good: Slurm looks at whose the process really is. Raises NoDatabase."""
    try:
        owner = os.stat(config.paths.spool)
    except OSError as error:
        raise NoDatabase(f"{config.paths.spool}: {error.strerror}. Start scd once, then come back.") from None
    if os.geteuid() == 0 != owner.st_uid:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


async def examine(config: Config, file: Path) -> AsyncIterator[Finding]:
    """What a batch job needs, in its order; nothing comes after the first that is bad."""
    if config.slurm is None:
        yield Finding(False, "The configuration has no [slurm].", "add the table; docs/SLURM.md says how")
        return
    slurm = Controller(config.slurm)
    try:
        answer = await slurm.ask(cli.ping())
        if answer.code != 0:
            yield Finding(
                False, f"Slurm's controller does not answer: {answer.words}",
                "try as scd's account: scontrol ping; look at munge, slurm.conf and [slurm] conf",
            )  # fmt: skip
            return
        await slurm.read_partitions()
        yield Finding(
            True, f"Slurm's controller answers; its partitions are {', '.join(sorted(slurm.partitions)) or 'unknown'}."
        )
        try:
            check(preparation(config, "slurm", ""), slurm.partitions, "[slurm]")
        except Misplaced as refusal:
            yield Finding(False, str(refusal), "mend [slurm] partition, memory, time")
            return
        try:
            runtimes = await Runtimes.probe(config)
            sandboxes = await isolate(config, runtimes, file, Path(config.paths.spool) / "sandbox")
        except (ConfigError, OSError) as error:
            yield Finding(False, str(error), "mend this machine first: scd --check-config")
            return
        with tempfile.TemporaryDirectory(dir=Path(config.paths.spool) / "staging", prefix="probe-") as place:
            yield await _probe(config, slurm, runtimes, sandboxes.get(next(iter(runtimes))[0].name), Path(place))
    finally:
        slurm.close()


async def _probe(
    config: Config, slurm: Controller, runtimes: Runtimes, sandbox: Sandbox | None, place: Path
) -> Finding:
    """A batch job that asks the first runtime for its version, in its sandbox."""
    name = f"scd-{secrets.token_hex(16)}-0.1"
    script = _script(runtimes, sandbox, place)
    argv = cli.sbatch(name, "scdctl doctor", str(place), preparation(config, "slurm", ""))
    begin = time.monotonic()
    verdict, text = cli.submitted(await slurm.submit(argv, script))
    if verdict is not Verdict.ACCEPTED:
        return Finding(False, f"sbatch: {text}", "mend what Slurm says; [slurm] has partition, account, memory, time")
    row: QueueRow | None = None
    over: float | None = None
    while time.monotonic() - begin < _PATIENCE and (over is None or time.monotonic() - over < _LATE):
        await asyncio.sleep(1.0)
        if (place / _DONE).exists():
            return _found(place, time.monotonic() - begin)
        queue = await slurm.queue()
        row = cli.best(queue.get(name, ())) if queue is not None else row
        if row is not None and row.has_ended:
            over = over or time.monotonic()
    await slurm.cancel([text])
    if row is not None and not row.has_ended:
        return Finding(False, f"Slurm job {text} did not run within {_PATIENCE:.0f} s: {waiting(row) or row.state}",
                       "try again when there is room, or with another [slurm] partition")  # fmt: skip
    where = f" on {row.nodes}" if row is not None and row.nodes else ""
    return Finding(
        False, f"Slurm job {text} ended{where}, and left nothing in {place.parent}.",
        "share the spool with the compute nodes, under the same path, writable for scd's account",
    )  # fmt: skip


def _script(runtimes: Runtimes, sandbox: Sandbox | None, place: Path) -> str:
    runtime, _ = next(iter(runtimes))
    work, temporary = place / "work", place / "tmp"
    for directory in (work, temporary):
        directory.mkdir(mode=0o700)
    inside = [*sandbox.argv(str(work), str(temporary)), "--"] if sandbox else []
    probe = shlex.join([*inside, *command(runtime, "scd.runner.probe", "--brief")])
    return (
        f"#!/bin/sh\nexport PATH={PATH}\ncd {shlex.quote(str(place))} || exit 1\n"
        f"hostname >host\n{probe} >found 2>errors\necho $? >{_DONE}\n"
    )


def _found(place: Path, took: float) -> Finding:
    host, found = ((place / name).read_text().strip() for name in ("host", "found"))
    if found.startswith("{"):
        version = msgspec.json.decode(found.splitlines()[-1], type=dict[str, str]).get("sc")
        return Finding(True, f"A batch job ran on {host} after {took:.0f} s, with SiliconCompiler {version}.")
    lines = (place / "errors").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return Finding(
        False, f"The runtime does not run in its sandbox on {host}: {lines[-1]}",
        "install bubblewrap, scd and the runtime there, under the same paths as here",
    )  # fmt: skip
