"""The daemon and its database."""

import asyncio
import time
from collections.abc import AsyncIterator

from ...config import Config
from ...errors import ScdError
from ...store import Database, JobStore, known_backup
from ...units import format_duration
from ..daemon import ask
from .finding import Finding, bad, good, note

_OLD_BACKUP = 8 * 86400.0
_AHEAD = 60.0
_TIMER = "systemctl enable --now scd-backup.timer (or: scdctl backup FILE)"


async def check_daemon(config: Config) -> AsyncIterator[Finding]:
    try:
        await asyncio.to_thread(ask, config, "GET", "healthz")
    except ScdError as error:
        yield bad("daemon", error.message, "systemctl start scd; then: journalctl -u scd -e")
    else:
        yield good("daemon", f"scd answers at {config.unix_sockets[0]}.")


async def check_database(config: Config) -> AsyncIterator[Finding]:
    path = config.database
    if not path.exists():
        yield note("database", f"There is no {path} yet; scd makes it at its start.")
        return
    try:
        async with await Database.open_readonly(path) as database:
            store = JobStore(database)
            problems, last = await store.damage(), await store.last_change()
    except ScdError as error:
        yield bad("database", error.message, "systemctl restart scd")
        return
    backup = known_backup(path)
    for problem in problems:
        yield bad("database", f"{path} is damaged: {problem}",
                  f"systemctl stop scd; scdctl restore {backup or 'FILE'}; systemctl start scd")  # fmt: skip
    if not problems:
        yield good("database", f"{path} is whole.")
    if last is not None and last > time.time() + _AHEAD:
        ahead = format_duration(last - time.time())
        yield bad("clock", f"The clock is {ahead} behind the newest thing in the database.",
                  "set the clock right: timedatectl set-ntp true")  # fmt: skip


async def check_backup(config: Config) -> AsyncIterator[Finding]:
    if not config.database.exists():
        return
    backup = known_backup(config.database)
    if backup is None or not backup.is_file():
        yield note("backup", "No backup of the database is known.", _TIMER)
        return
    age = time.time() - backup.stat().st_mtime
    if age > _OLD_BACKUP:
        yield bad("backup", f"The newest backup, {backup}, is {int(age // 86400)} days old.", _TIMER)
    else:
        yield good("backup", f"The newest backup, {backup}, is {format_duration(age)} old.")
