"""Checks that are programs of their own, run as scd's account: root can do what scd cannot."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from ...config import DEFAULT_FILE, Config, load
from ...errors import ScdError
from .account import account_of
from .finding import Finding, bad


async def findings_of(module: str, check: str, config: Config, file: Path | None) -> AsyncIterator[Finding]:
    """What a module of the doctor's finds as scd's account."""
    account = account_of(config)
    if account is None:
        return
    other = os.geteuid() != account.pw_uid
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *([str(file)] if file else []), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd="/",
        user=account.pw_uid if other else None, group=account.pw_gid if other else None,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid) if other else None,
    )  # fmt: skip
    out, err = await process.communicate()
    try:
        for finding in msgspec.json.decode(out, type=list[Finding]):
            yield finding
    except msgspec.DecodeError:
        last = (err.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        yield bad(check, f"This cannot be tried as {account.pw_name}: {last}",
                  f"let {account.pw_name} read scd's own files and the configuration")  # fmt: skip


def print_findings(examine: Callable[[Config, Path], Awaitable[list[Finding]]]) -> None:
    """The ``main`` of such a module."""

    async def examined() -> list[Finding]:
        return await examine(load(file), file or DEFAULT_FILE)

    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        findings = asyncio.run(examined())
    except ScdError as error:
        findings = [bad("config", f"scd's account cannot read the configuration: {error.message}",
                        "chown root:scd /etc/scd/scd.toml && chmod 0640 /etc/scd/scd.toml")]  # fmt: skip
    sys.stdout.buffer.write(msgspec.json.encode(findings))
