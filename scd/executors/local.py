"""Attempts as processes on this machine: one session a job, with the shim that holds its runner.

The journal that the shim writes is the truth. An order that the journal does not show as accepted is sent again, to
the same shim or its successor; the shim runs no name twice.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from ..errors import ScdError
from ..launcher.base import Connection, Launcher, LauncherDown, Work, connect, dismiss
from ..launcher.journal import read
from ..model import NodeKey, Plan, ResourceUsage
from ..procfs import ProcessId, boot_id
from ..spool import JobDirectory, Spool
from ..states import NodeState
from .base import Observation, Spec

log = logging.getLogger(__name__)

_GRACE = 2.5  # seconds between TERM and KILL: a cancel is over within 5
_REPLY_DEADLINE = 8.0
_GOODBYE = 5.0
_SAMPLE_INTERVAL = 1.0
_RECONNECT_DELAY = 0.5
_LONGEST_DELAY = 15.0
# What a shim may say of its archives: it can be in the hands of the job's account.
_ARCHIVE = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.tar\.gz")
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f-]{1,64}\.tar\.gz")

Wake = Callable[[], None]
Message = dict[str, Any]


class LocalExecutor:
    name = "local"

    def __init__(self, spool: Spool, launcher: Launcher, wake: Wake):
        self._spool = spool
        self._launcher = launcher
        self._wake = wake
        self._sessions: dict[str, Session] = {}
        self._sampler: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # sessions of jobs that ended

    async def submit(self, spec: Spec) -> str:
        session = self._sessions.get(spec.job_hash)
        if session is None:
            session = Session(spec, self._spool.job(spec.job_hash), self._launcher, self._wake)
            self._sessions[spec.job_hash] = session
        session.order(_order(spec, session.directory), spec.name)
        if self._sampler is None:
            self._sampler = asyncio.create_task(self._sample())
        return spec.name

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        wanted = set(handles)
        return {
            name: seen
            for session in self._sessions.values()
            for name, seen in session.observations.items()
            if name in wanted
        }

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        wanted = set(handles)
        for session in self._sessions.values():
            if names := sorted(wanted & session.observations.keys()):
                session.send({"op": "kill", "names": names, "grace": _GRACE, "state": state, "reason": reason})

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        reply = await self._ask(job_hash, {"op": "snapshot", "step": key.step, "index": key.index})
        file = _named(_SNAPSHOT, (reply or {}).get("file"))
        return None if file is None else str(self._spool.job(job_hash).archives / file)

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        order = {"op": "tail", "step": key.step, "index": key.index, "offset": offset}
        reply = await self._ask(job_hash, order)
        return None if reply is None or "error" in reply else reply

    async def release(self, job_hash: str) -> None:
        session = self._sessions.pop(job_hash, None)
        if session is not None:  # in a task of its own: a shim may be slow to answer
            task = asyncio.create_task(session.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def dismiss(self, wanted: Collection[str]) -> None:
        """End the shims of all jobs but these: the daemon died before it could tell them that their jobs had ended."""
        for job_hash in await asyncio.to_thread(self._spool.with_shim):
            if job_hash not in wanted:
                await dismiss(self._spool.job(job_hash))

    async def close(self) -> None:
        """Leave all jobs alone; they go on without the daemon."""
        if self._sampler is not None:
            self._sampler.cancel()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_GOODBYE)
        for session in self._sessions.values():
            session.abandon()

    async def _ask(self, job_hash: str, order: Message) -> Message | None:
        session = self._sessions.get(job_hash)
        return None if session is None else await session.ask(order)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_INTERVAL)
            running: dict[str, Observation] = {}
            pids: dict[str, tuple[str, int]] = {}
            for session in self._sessions.values():
                for name, seen in session.observations.items():
                    if seen.pid is not None and seen.state is None:
                        running[name], pids[name] = seen, (session.user, seen.pid)
            figures = await asyncio.to_thread(self._launcher.sample, pids)
            for name, usage in figures.items():
                running[name].usage = running[name].usage.merged(usage)


class _Silent(Exception):
    """The shim does not answer, and is not dead."""


class Session:
    """The daemon's end of one job's shim."""

    def __init__(self, spec: Spec, directory: JobDirectory, launcher: Launcher, wake: Wake):
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
                elif file := _named(_SNAPSHOT, message.get("file")):  # a snapshot that nobody waits for any more
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
            self._shim = ProcessId(record["pid"], record["ticks"], record["boot"])
        name = record.get("name", "")
        if not name:
            return
        seen = self.observations.setdefault(name, Observation())
        match record["type"]:
            case "accepted":
                self._unaccepted.pop(name, None)
            case "started":
                seen.started = record["at"]
                if record["boot"] == self._boot:  # else its pid may be anybody's by now
                    seen.pid, seen.started_mono = record["pid"], record["mono"]
            case "ended":
                seen.ended, seen.elapsed = record["at"], record["elapsed"]
                seen.archive = _named(_ARCHIVE, record["archive"])
                seen.reason, seen.exit_code = _text(record["reason"]), _number(record.get("exit_code"))
                seen.refused, seen.lost = bool(record.get("refused")), bool(record.get("lost"))
                seen.usage = seen.usage.merged(_usage(record.get("usage")))
                seen.state = _state(record["state"])
                if plan := record.get("plan"):
                    _take_plan(seen, plan)

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


def _order(spec: Spec, directory: JobDirectory) -> Message:
    order: Message = {"name": spec.name, "archive": spec.archive}
    if spec.key is None:
        order |= {"op": "prepare", "manifest": str(directory.manifest(spec.generation))}
        if spec.unpack:
            order["import"] = str(directory.import_archive)
        return order
    return order | {"op": "node", "step": spec.key.step, "index": spec.key.index, "ancestors": spec.ancestors}


def _state(word: str) -> NodeState:
    """What a job can write decides its status: anything unknown is an error."""
    try:
        state = NodeState(word)
    except ValueError:
        return NodeState.ERROR
    return state if state.done else NodeState.ERROR


def _named(pattern: re.Pattern[str], name: object) -> str | None:
    return name if isinstance(name, str) and pattern.fullmatch(name) else None


def _text(value: object) -> str:
    """Whatever bytes a tool put into an error: the database takes only what can be written as UTF-8."""
    return str(value).encode(errors="replace").decode()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None


def _usage(figures: object) -> ResourceUsage:
    """The runner's figures are for show; what is charged is the shim's. Nonsense counts as nothing."""
    try:
        usage = msgspec.convert(figures or {}, ResourceUsage)
    except msgspec.ValidationError:
        return ResourceUsage()
    return usage if all(0 <= figure < 2**62 for figure in msgspec.structs.astuple(usage)) else ResourceUsage()


def _take_plan(seen: Observation, plan: object) -> None:
    try:
        seen.plan = msgspec.convert(plan, Plan, strict=False)
        seen.raw_plan = msgspec.json.encode(seen.plan)
    except msgspec.ValidationError as error:
        seen.state, seen.reason = (
            NodeState.ERROR,
            f"SiliconCompiler prepared a plan that scd does not understand: {error}",
        )
