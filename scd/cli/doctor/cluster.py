"""Slurm, tried by a batch job that is submitted as the daemon would: by a program of its own, as scd's account.

``python -m scd.cli.doctor.cluster FILE`` prints its findings as JSON.
"""

import asyncio
import contextlib
import os
import pwd
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ... import slurm_cli as cli
from ...config import Config, Settings
from ...errors import ConfigError, ScdError
from ...executors import places
from ...executors.batches import AccountBatches, Batches, OwnBatches
from ...executors.controller import Controller
from ...executors.slurm_words import waiting
from ...launcher.base import ShimFailed
from ...launcher.claims import SLURM
from ...launcher.gateway import Gateway
from ...launcher.isolation import isolate
from ...launcher.requests import Check
from ...launcher.spec import PROBE, BatchScripts
from ...placement import Misplaced, check, preparation
from ...runtimes import Runtimes
from ...slurm_cli import Verdict
from ...slurm_queue import QueueRow, best
from ...spool import JobDirectory, Spool
from .apart import findings_of, print_findings
from .finding import Finding, bad, good, note

_PATIENCE = 120.0
_LATE = 15.0  # a shared file system may be


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
        await slurm.read_site()
        yield good(
            "slurm",
            f"Slurm's controller answers; its partitions are {', '.join(sorted(slurm.partitions)) or 'unknown'}.",
        )
        yield _limit(slurm, accounts=config.has_accounts)
        try:
            check(preparation(config, "slurm", ""), slurm.partitions, "[slurm]")
        except Misplaced as refusal:
            yield bad("slurm", str(refusal), "mend [slurm] partition, memory, time")
            return
        known = cli.licenses(await slurm.ask(cli.show_licenses()))
        for finding in _licenses(config, known) if known is not None else ():
            yield finding
        yield await _try(config, file, slurm)
    finally:
        slurm.close()


def _limit(slurm: Controller, *, accounts: bool) -> Finding:
    """``accounts``: of users, who have the batch jobs."""
    if slurm.site is None:
        return note("slurm", "Slurm does not say whether it limits requests (rl_enable).",
                    "try as scd's account: scontrol show config")  # fmt: skip
    if slurm.site.limit is None:
        return good("slurm", "Slurm does not limit requests (rl_enable): each node is a batch job of its own.")
    told = f"Slurm limits an account's requests to {slurm.site.limit} (rl_enable)"
    together = "nodes that are ready together go as a job array"
    if not accounts and not slurm.limits(os.geteuid()):
        return good("slurm", f"{told}, but not those of scd's account, which is SlurmUser; {together}.")
    each = " for each account" if accounts else ""
    return good("slurm", f"{told}: scd keeps within that{each}, and {together}.")


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


async def _try(config: Config, file: Path, slurm: Controller) -> Finding:
    assert config.slurm is not None
    gateway = Gateway(Settings(config, file), patience=0) if config.has_accounts else None
    spool = Spool(Path(config.paths.spool), gateway, shared=gateway is not None)
    if not spool.staging.is_dir():
        return bad("slurm", f"There is no {spool.staging} yet.", "start scd once")
    batches: Batches
    if gateway is not None:
        batches = AccountBatches(gateway, spool)
    else:
        try:
            batches = OwnBatches(config.slurm, spool, await _scripts(config, file))
        except (ConfigError, OSError) as error:
            return bad("slurm", str(error), "mend this machine first: scd --check-config")
    staged = spool.stage()
    try:
        user = "" if gateway is None else _with_account(config, gateway)
        if user is None:
            return note("slurm", "No batch job was tried: nobody in the configuration has a Unix account here.",
                        "name one who has: account in [users.NAME]")  # fmt: skip
        return await _Probe(config, slurm, batches, user).run(staged)
    except (ScdError, OSError) as error:
        return bad("slurm", str(error), "mend that; scd-launcher's log may say more")
    finally:
        spool.discard(staged)


def _with_account(config: Config, gateway: Gateway) -> str | None:
    """Whoever has no account of his own, or else the first user who has one here. Raises ScdError."""
    for user in ("", *sorted(config.users)):
        if account := config.account_of(user):
            with contextlib.suppress(ShimFailed):  # this account is refused
                gateway.ask(Check(account))
                return user
    return None


async def _scripts(config: Config, file: Path) -> BatchScripts:
    runtimes = await Runtimes.probe(config)
    with tempfile.TemporaryDirectory(prefix="scd-doctor-") as place:
        return BatchScripts(config, runtimes, await isolate(config, runtimes, file, Path(place)))


class _Probe:
    """A batch job that asks the first runtime for its version, in its sandbox."""

    def __init__(self, config: Config, slurm: Controller, batches: Batches, user: str):
        self._config = config
        self._slurm = slurm
        self._batches = batches
        self._user = user
        self._account = config.account_of(user)

    async def run(self, staged: JobDirectory) -> Finding:
        """Raises ScdError, OSError."""
        name = cli.probe_name(staged.path.name)
        place = staged.control / SLURM / PROBE
        begin = time.monotonic()
        answer = await asyncio.to_thread(
            self._batches.probe, self._user, staged, preparation(self._config, "slurm", self._user)
        )
        verdict, text = cli.submitted(answer)
        if verdict is not Verdict.ACCEPTED:
            return bad("slurm", f"sbatch{self._as}: {text}",
                       "mend what Slurm says; [slurm] has partition, account, memory, time")  # fmt: skip
        row: QueueRow | None = None
        over: float | None = None
        while time.monotonic() - begin < _PATIENCE and (over is None or time.monotonic() - over < _LATE):
            await asyncio.sleep(1.0)
            row = await self._row(name) or row
            if (record := places.look(place, known_started=True).ended) is not None:
                return self._found(record, time.monotonic() - begin, seen=row is not None)
            if row is not None and row.has_ended:
                over = over or time.monotonic()
        await asyncio.to_thread(self._batches.cancel, self._user, [text])
        if row is None:
            return self._hidden(text)
        if not row.has_ended:
            return bad("slurm", f"Slurm job {text} did not run within {_PATIENCE:.0f} s: {waiting(row) or row.state}",
                       "try again when there is room, or with another [slurm] partition")  # fmt: skip
        where = f" on {row.nodes}" if row.nodes else ""
        return bad(
            "slurm", f"Slurm job {text} ended{where}, and left nothing in {staged.path.parent}.",
            f"share the spool with the compute nodes, under the same path, writable for {self._account or 'scd'}'s "
            "account, and install there what step 4 of docs/SLURM.md names",
        )  # fmt: skip

    @property
    def _as(self) -> str:
        return f" as {self._account}" if self._account else ""

    async def _row(self, name: str) -> QueueRow | None:
        owner = pwd.getpwnam(self._account).pw_uid if self._account else os.geteuid()
        queue = await self._slurm.queue()
        return best(row for row in (queue or {}).get(name, ()) if row.user == owner)

    def _hidden(self, job: str) -> Finding:
        return bad(
            "slurm", f"Slurm does not show scd the job {job}, which it has taken{self._as}.",
            "PrivateData=jobs hides it: make scd an operator, sacctmgr modify user scd set adminlevel=operator",
        )  # fmt: skip

    def _found(self, record: dict[str, Any], took: float, *, seen: bool) -> Finding:
        host, found, errors = (str(record.get(key, "")) for key in ("host", "found", "errors"))
        if not seen and self._account:
            return self._hidden("of this try")
        with contextlib.suppress(msgspec.DecodeError, IndexError):
            version = msgspec.json.decode(found.splitlines()[-1], type=dict[str, str])["sc"]
            return good(
                "slurm", f"A batch job ran{self._as} on {host} after {took:.0f} s, with SiliconCompiler {version}."
            )
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        return bad(
            "slurm", f"The runtime does not run in its sandbox on {host}: {last}",
            "install bubblewrap, scd and the runtime there, under the same paths as here",
        )  # fmt: skip


def main() -> None:
    async def examined(config: Config, file: Path) -> list[Finding]:
        return [finding async for finding in examine(config, file)]

    print_findings(examined)


if __name__ == "__main__":
    main()
