"""The daemon's end of one job's shim: orders go out, the journal is read, a shim is started where there is none."""

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ..errors import ScdError
from ..launcher.base import Connection, Launcher, LauncherDown, Work, connect, dismiss
from ..launcher.journal import read
from ..procfs import ProcessId, boot_id
from ..spool import JobDirectory
from ..states import NodeState
from .base import Observation, Spec
from .records import observe, snapshot_name, whole

log = logging.getLogger(__name__)

_REPLY_DEADLINE = 8.0
_RECONNECT_DELAY = 0.5
_LONGEST_DELAY = 15.0

Wake = Callable[[], None]
MakeReady = Callable[[Spec], Awaitable[None]]  # what a preparation needs on the disk; ScdError if it cannot be had
Message = dict[str, Any]


class _Silent(Exception):
    """The shim does not answer, and is not dead."""


class Session:
    """The daemon's end of one job's shim."""

    def __init__(self, spec: Spec, directory: JobDirectory, launcher: Launcher, wake: Wake, make_ready: MakeReady):
        self._make_ready = make_ready
        self.directory = directory
        self.observations: dict[str, Observation] = {}
        self._spec = spec
        self._launcher = launcher
        self._wake = wake
        self._offset = 0
        self._boot = boot_id()
        self._shim: ProcessId | None = None
        self._unaccepted: dict[str, Message] = {}
        self._outbox: list[Message] = []
        self._writer: asyncio.StreamWriter | None = None
        self._requests = itertools.count(1)
        self._replies: dict[str, asyncio.Future[Message]] = {}
        self._exiting = False
        self._task = asyncio.create_task(self._serve())

    @property
    def user(self) -> str:
        return self._spec.user

    def order(self, order: Message, name: str) -> None:
        if name in self.observations and name not in self._unaccepted:
            return
        self.observations[name] = Observation()
        self._unaccepted[name] = order
        self.send(order)

    def send(self, message: Message) -> None:
        """At once, or as soon as there is a shim. Orders that run something survive the shim's death besides."""
        if self._writer is None:
            if message["op"] not in ("prepare", "node"):
                self._outbox.append(message)
        else:
            self._writer.write(_line(message))

    async def ask(self, order: Message) -> Message | None:
        request = f"{id(self):x}-{next(self._requests)}"
        self._replies[request] = asyncio.get_running_loop().create_future()
        self.send({**order, "id": request})
        try:
            return await asyncio.wait_for(self._replies[request], _REPLY_DEADLINE)
        except TimeoutError:
            return None
        finally:
            del self._replies[request]

    async def close(self) -> None:
        """The job has ended: its shim is told to go. Other orders that are on their way come first."""
        self._exiting = True
        if self._writer is not None:
            self.send({"op": "exit"})
            with contextlib.suppress(OSError):
                await self._writer.drain()
            self.abandon()
        else:
            self.abandon()
            await dismiss(self.directory)

    def abandon(self) -> None:
        self._task.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _serve(self) -> None:
        """Stay connected to the job's shim; start one where there is none and something is owed."""
        delay = _RECONNECT_DELAY
        while not self._exiting:
            try:
                await self._catch_up()
                connection = await self._connect()
                delay = _RECONNECT_DELAY
                await self._listen(connection)
            except _Silent as silence:
                log.warning("job=%s %s", self._spec.job_hash, silence)
            except (OSError, ScdError) as error:
                log.error("job=%s %s", self._spec.job_hash, error)
            except Exception:  # one job's trouble must not silence it for ever
                log.exception("job=%s the session with its shim failed", self._spec.job_hash)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _connect(self) -> Connection:
        if any(order["op"] == "prepare" for order in self._unaccepted.values()):
            await self._adopt()
        connection = await connect(self.directory)
        if connection is None:
            if self._shim is not None and await asyncio.to_thread(self._launcher.is_alive, self._shim, self.user):
                raise _Silent(f"its shim (pid {self._shim.pid}) lives but does not answer; it is waited for")
            if not await asyncio.to_thread(self.directory.control.is_dir):
                self._fail(self.observations, "the job's directory is gone")
            await self._start_shim()
            connection = await connect(self.directory)
        if connection is None:
            raise ScdError("The job's shim does not answer.")
        return connection

    async def _adopt(self) -> None:
        try:
            await self._make_ready(self._spec)
            await asyncio.to_thread(self._launcher.adopt, self._spec.job_hash, self.user)
        except LauncherDown:
            raise
        except ScdError as error:
            self._fail(self._unaccepted, str(error))
            raise

    async def _start_shim(self) -> None:
        """Only after a look at the journal: what is not accepted there now never was, and fails if there is no shim."""
        spec = self._spec
        try:
            work = Work(self.directory, spec.job_hash, spec.design, spec.jobname, spec.runtime, spec.user)
            await self._launcher.start(work)
        except LauncherDown:  # the job waits for it
            raise
        except (OSError, ScdError) as error:
            self._fail(self._unaccepted, str(error))
            raise

    async def _listen(self, connection: Connection) -> None:
        reader, self._writer = connection
        try:
            await self._catch_up()  # an accepted order must not be sent again as if it were lost
            for message in (*self._unaccepted.values(), *self._outbox):
                self.send(message)
            self._outbox.clear()
            while line := await reader.readline():
                message = json.loads(line)
                if "journal" in message:
                    await self._catch_up()
                elif (reply := self._replies.get(message.get("id", ""))) is not None and not reply.done():
                    reply.set_result(message)
                elif file := snapshot_name(message.get("file")):  # a snapshot that nobody waits for any more
                    await asyncio.to_thread((self.directory.archives / file).unlink, missing_ok=True)
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
        await self._catch_up()

    async def _catch_up(self) -> None:
        records, self._offset = await asyncio.to_thread(read, self.directory.control, self._offset)
        for record in records:
            try:
                self._apply(record)
            except (LookupError, TypeError, ValueError) as error:  # a damaged disk; the other records still count
                log.error("job=%s a record of its journal makes no sense: %r", self._spec.job_hash, error)
        if records:
            self._wake()

    def _apply(self, record: Message) -> None:
        if record["type"] == "shim":
            self._shim = ProcessId(whole(record["pid"]), whole(record["ticks"]), record["boot"])
        name = record.get("name", "")
        if not name:
            return
        seen = self.observations.setdefault(name, Observation())
        match record["type"]:
            case "accepted":
                self._unaccepted.pop(name, None)
            case _:
                observe(seen, record, self._boot)

    def _fail(self, names: Iterable[str], reason: str) -> None:
        """No shim can be had: what was never accepted has ended before it began."""
        for name in list(names):
            self._unaccepted.pop(name, None)
            seen = self.observations[name]
            if seen.state is None:
                seen.reason, seen.state = reason, NodeState.ERROR
        self._wake()


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
