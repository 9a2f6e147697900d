"""``scdctl check``, ``backup`` and ``restore``: the database and the spool, and whether they fit together."""

import argparse
import asyncio
import os
from pathlib import Path

from ..audit import Finding, audit, mend, record
from ..config import Config
from ..errors import ScdError, StateLocked
from ..lock import locked
from ..spool import Spool
from ..store import Database, JobStore
from ..store import back_up as back_up_
from ..store import restore as restore_
from .daemon import ask
from .reading import NotAllowed, open_store
from .table import clean, print_json


class Unsound(ScdError):
    """Something does not fit together."""


async def check(config: Config, arguments: argparse.Namespace) -> None:
    findings = await (_fix(config) if arguments.fix else _look(config))
    if arguments.json:
        print_json({"version": 1, "findings": findings})
    else:
        for found in findings:
            where = f"{found['job_hash'][:8]}: " if found["job_hash"] else ""
            done = f"mended: {found['mended']}" if found["mended"] else f"to mend it: {found['remedy']}"
            print(clean(f"{where}{found['problem']} ({done})"))
        if not findings:
            print("Disk and database fit together.")
    if left := sum(not found["mended"] for found in findings):
        advice = "" if arguments.fix else " scdctl check --fix mends what it can."
        raise Unsound(f"{left} finding{'s' if left > 1 else ''}.{advice}")


async def _look(config: Config) -> list[dict[str, str]]:
    async with open_store(config) as store:
        _become_owner(config)
        return [record(finding) for finding in await _audit(config, store)]


async def _fix(config: Config) -> list[dict[str, str]]:
    """By the daemon if there is one: nobody else may write its database. Otherwise in its place, as its account."""
    async with open_store(config):
        pass
    _become_owner(config)
    try:
        with locked(config):
            async with await Database.open(config.database) as database:
                return await mend(await _audit(config, JobStore(database)))
    except StateLocked:
        answer = await asyncio.to_thread(ask, config, "POST", "admin", "fix")
        return list(answer["findings"])


async def _audit(config: Config, store: JobStore) -> list[Finding]:
    try:
        return await audit(store, Spool(Path(config.paths.spool)))
    except PermissionError as error:
        raise NotAllowed(f"{error.filename} cannot be read by this account. Use root's or scd's.") from None


def _become_owner(config: Config) -> None:
    """What root would make here, scd could not open; and on NFS root may see nothing (root_squash)."""
    owner = os.stat(config.paths.state)
    if os.geteuid() == 0 != owner.st_uid:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


async def backup(config: Config, arguments: argparse.Namespace) -> None:
    async with open_store(config) as store:
        await back_up_(store.database.path, arguments.file)
    if not arguments.json:
        print(f"The database is backed up to {arguments.file}. Jobs' files are not in it: they lie in the spool.")
    else:
        print_json({"version": 1, "backup": str(arguments.file)})


async def restore(config: Config, arguments: argparse.Namespace) -> None:
    try:
        with locked(config):
            kept = await restore_(config.database, arguments.file)
    except StateLocked as error:
        raise StateLocked(
            f"{error.message} Stop it first: a database is not replaced under a running daemon."
        ) from None
    except PermissionError as error:
        raise NotAllowed(f"{error.filename} cannot be written by this account. Use root's or scd's.") from None
    if arguments.json:
        print_json({"version": 1, "restored": str(arguments.file), "replaced": str(kept) if kept else None})
        return
    print(f"{arguments.file} is the database now." + (f" The one before is kept as {kept}." if kept else ""))
    print("Start scd, then compare it with the spool: scdctl check")
