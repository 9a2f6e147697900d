"""Slurm, tried by a batch job that is submitted as the daemon would: by a program of its own, as scd's account.

``python -m scd.cli.doctor.cluster FILE`` prints its findings as JSON.
"""

import asyncio
import secrets
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from ...config import Config
from ...errors import ConfigError
from ...executors import slurm_cli as cli
from ...executors.controller import Controller
from ...executors.slurm_cli import QueueRow, Verdict
from ...executors.slurm_words import waiting
from ...launcher.isolation import isolate
from ...launcher.sandbox import Sandbox
from ...placement import Misplaced, check, preparation
from ...runtimes import PATH, Runtimes, command
from .apart import findings_of, print_findings
from .finding import Finding, bad, good

_PATIENCE = 120.0
_LATE = 15.0  # a shared file system may be
_DONE = "done"


async def check_cluster(config: Config, file: Path | None) -> AsyncIterator[Finding]:
    """The findings of this module's ``main``, run as scd's account: Slurm looks at whose the process is."""
    async for finding in findings_of(__name__, "slurm", config, file):
        yield finding


async def examine(config: Config, file: Path) -> AsyncIterator[Finding]:
    """What a batch job needs, in its order; what cannot be without it is not tried after something bad."""
    if config.slurm is None:
        yield bad("slurm", "The configuration has no [slurm].", "add the table; docs/SLURM.md says how")
        return
    slurm = Controller(config.slurm)
    try:
        answer = await slurm.ask(cli.ping())
        if answer.code != 0:
            yield bad(
                "slurm", f"Slurm's controller does not answer: {answer.words}",
                "try as scd's account: scontrol ping; look at munge, slurm.conf and [slurm] conf",
            )  # fmt: skip
            return
        await slurm.read_partitions()
        yield good(
            "slurm",
            f"Slurm's controller answers; its partitions are {', '.join(sorted(slurm.partitions)) or 'unknown'}.",
        )
        try:
            check(preparation(config, "slurm", ""), slurm.partitions, "[slurm]")
        except Misplaced as refusal:
            yield bad("slurm", str(refusal), "mend [slurm] partition, memory, time")
            return
        known = cli.licenses(await slurm.ask(cli.show_licenses()))
        for finding in _licenses(config, known) if known is not None else ():
            yield finding
        try:
            runtimes = await Runtimes.probe(config)
            sandboxes = await isolate(config, runtimes, file, Path(config.paths.spool) / "sandbox")
        except (ConfigError, OSError) as error:
            yield bad("slurm", str(error), "mend this machine first: scd --check-config")
            return
        staging = Path(config.paths.spool) / "staging"
        if not staging.is_dir():
            yield bad("slurm", f"There is no {staging} yet.", "start scd once")
            return
        with tempfile.TemporaryDirectory(dir=staging, prefix="probe-") as place:
            yield await _probe(config, slurm, runtimes, sandboxes.get(next(iter(runtimes))[0].name), Path(place))
    finally:
        slurm.close()


def _licenses(config: Config, known: frozenset[str]) -> Iterator[Finding]:
    wanted = {one.slurm: name for name, one in config.licenses.items() if one.slurm}
    for slurm, name in wanted.items():
        if slurm not in known:
            yield bad(
                "slurm", f"Slurm knows no licence {slurm}: it refuses each node that needs one.",
                f"add Licenses={slurm}:{config.licenses[name].count} to slurm.conf, or set [licenses.{name}] slurm: "
                'to the name that Slurm has for it, or to "" to count it here',
            )  # fmt: skip
    if wanted and known.issuperset(wanted):
        yield good("slurm", f"Slurm knows the licences {', '.join(sorted(wanted))}.")


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
        return bad("slurm", f"sbatch: {text}", "mend what Slurm says; [slurm] has partition, account, memory, time")
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
        return bad("slurm", f"Slurm job {text} did not run within {_PATIENCE:.0f} s: {waiting(row) or row.state}",
                       "try again when there is room, or with another [slurm] partition")  # fmt: skip
    where = f" on {row.nodes}" if row is not None and row.nodes else ""
    return bad(
        "slurm", f"Slurm job {text} ended{where}, and left nothing in {place.parent}.",
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
        return good("slurm", f"A batch job ran on {host} after {took:.0f} s, with SiliconCompiler {version}.")
    lines = (place / "errors").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return bad(
        "slurm", f"The runtime does not run in its sandbox on {host}: {lines[-1]}",
        "install bubblewrap, scd and the runtime there, under the same paths as here",
    )  # fmt: skip


def main() -> None:
    async def examined(config: Config, file: Path) -> list[Finding]:
        return [finding async for finding in examine(config, file)]

    print_findings(examined)


if __name__ == "__main__":
    main()
