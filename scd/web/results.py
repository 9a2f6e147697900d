"""Archives on their way to the client: found, decrypted, charged by what is sent."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from .. import limits
from ..auth import Identity, private_key
from ..errors import NoResults
from ..model import NodeKey, Tombstone
from ..sealed import SUFFIX, Damaged, WrongKey, open_either, size_of
from .peers import client_address, is_proxied
from .services import Services, owned
from .turns import Turns

log = logging.getLogger(__name__)

_CHUNK = 2**16  # each reader that is slow holds some of them
_SLICE = 64 * 2**20  # of a download, charged at a time
_SNAPSHOTS_AT_ONCE = 2  # a running node's directory is packed
_READS_AT_ONCE = 3  # of results, from the disk: not all threads, others need some


class Results:
    def __init__(self, services: Services):
        self._s = services
        self._snapshots = Turns(_SNAPSHOTS_AT_ONCE)
        self._reads = Turns(_READS_AT_ONCE)

    async def answer(self, request: Request, job_hash: str, owner: Identity, node: str | None) -> Response:
        """An archive of a user's own job, charged as it is sent.

        Raises UnknownJob, NotOwner, NoResults, ResultTooLarge, WrongKey, Damaged.
        """
        user = owner.user
        job = await owned(self._s.store, job_hash, user)
        if isinstance(job, Tombstone):
            raise NoResults(f"Job {job_hash} was deleted.")
        self._s.janitor.fetched(job_hash)
        who = user or client_address(request)
        path, temporary = await self._archive(request, who, job_hash, node)
        # Within the spool: where that lies is not for clients.
        where = f"jobs/{job_hash[:2]}/{job_hash}/archives/{path.name}"
        try:
            file = await asyncio.to_thread(open_either, path, private_key(owner.key) if owner.key else None)
        except FileNotFoundError:
            raise NoResults from None
        except WrongKey as error:
            raise WrongKey(
                f"{error.message} The administrator finds them at {where}{SUFFIX}, and who has their key opens them: "
                "age -d -i KEY FILE."
            ) from None
        except Damaged as error:
            log.error("job=%s %s%s is cut off, or damaged", job_hash, path, SUFFIX)
            raise Damaged(f"{error.message} The administrator finds them at {where}{SUFFIX}.") from None
        size = size_of(file)
        if temporary:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        try:
            limits.check_result(self._s.settings.config.limits_of(user), size, where)
        except BaseException:
            file.close()
            raise
        headers = {"content-disposition": f'attachment; filename="{job_hash}.tar.gz"'}
        # What is encrypted, or is about to be, the proxy cannot send.
        accel = self._s.settings.config.server.accel and not job.public_key
        if accel and is_proxied(request.scope) and not temporary:
            return await self._hand_over(file, path, user, job_hash, headers)
        headers["content-length"] = str(size)
        return StreamingResponse(self._send(file, user, who, job_hash), media_type="application/gzip", headers=headers)

    async def _hand_over(
        self, file: IO[bytes], path: Path, user: str, job_hash: str, headers: dict[str, str]
    ) -> Response:
        """Let the proxy send an archive. What it sends is not known here: all of it is charged."""
        begun = time.monotonic()
        with file:
            size = os.fstat(file.fileno()).st_size
            await asyncio.to_thread(self._s.spool.let_group_read, job_hash, file.fileno())
        await self._charge(user, job_hash, size, time.monotonic() - begun)
        location = f"{self._s.settings.config.server.accel}{path.relative_to(self._s.spool.jobs)}"
        return Response(headers={**headers, "x-accel-redirect": location}, media_type="application/gzip")

    async def _archive(self, request: Request, who: str, job_hash: str, node: str | None) -> tuple[Path, bool]:
        """The archive's path, and whether it was made for this request alone. Raises NoResults."""
        store = self._s.store
        key = NodeKey("", "")
        if node is not None:
            found = await store.node_named(job_hash, node)
            if found is None:
                raise NoResults(f"Job {job_hash} has no node {node!r}.")
            key = found.key
            if found.state.live:
                async with self._snapshots.turn(who):
                    if await request.is_disconnected():  # it has waited too long, and asks again
                        raise ClientDisconnect
                    snapshot = await self._s.executor.snapshot(job_hash, key)
                if snapshot is not None:
                    return Path(snapshot), True
        archive = await store.archive(job_hash, key)
        if archive is None:
            what = f"node {key}" if node is not None else f"job {job_hash}"
            raise NoResults(f"There are no results of {what} yet.")
        return self._s.spool.job(job_hash).archives / archive, False

    async def _send(self, file: IO[bytes], user: str, who: str, job_hash: str) -> AsyncIterator[bytes]:
        """The file, charged by what was really sent, also when the client leaves in the middle."""
        sent, begun = 0, time.monotonic()
        try:
            while chunk := await self._read(file, who):
                yield chunk
                sent += len(chunk)
                if sent >= _SLICE:  # a crash loses no more than this
                    due, sent = sent, 0
                    await asyncio.shield(self._charge(user, job_hash, due))
        finally:
            file.close()
            with contextlib.suppress(ClientDisconnect):
                await asyncio.shield(self._charge(user, job_hash, sent, time.monotonic() - begun))

    async def _read(self, file: IO[bytes], who: str) -> bytes:
        async with self._reads.turn(who):
            return await asyncio.to_thread(file.read, _CHUNK)

    async def _charge(self, user: str, job_hash: str, sent: int, seconds: float = 0.0) -> None:
        await self._s.store.database.write(lambda db: self._s.usage.charge_download(db, user, job_hash, sent, seconds))
