"""Disk and database compared: what does not fit together, and how it is mended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from .sealed import SUFFIX, plain_size
from .spool import Spool
from .store import JobStore

Mend = Callable[[], Awaitable[str]]  # what was done, in words


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit. ``mend`` is None where only a person can."""

    job_hash: str
    problem: str
    remedy: str
    mend: Mend | None = None


async def audit(store: JobStore, spool: Spool) -> list[Finding]:
    """All findings, the database's own first. Safe beside a running daemon: of its jobs only the ended are judged."""
    findings = [Finding("", problem, "restore a backup: scdctl restore FILE") for problem in await store.damage()]
    ended, archives, imports = await store.ended_hashes(), await store.archives(), await store.sealed_imports()
    there = await asyncio.to_thread(spool.hashes)
    marked = await asyncio.to_thread(spool.unacknowledged)
    # Last: a job that was taken meanwhile is known by now. Marked is what is just being taken.
    known, buried = await store.known_hashes(), await store.buried_hashes()
    findings += [_orphan(store, spool, job_hash) for job_hash in sorted(there - known - buried - marked)]
    for job_hash in sorted(ended & known):
        if job_hash not in there:
            findings.append(_lost_files(store, spool, job_hash))
            continue
        names = await asyncio.to_thread(spool.archive_names, job_hash)
        present = {name if _is_unfinished(name) else name.removesuffix(SUFFIX) for name in names}
        wanted = archives.get(job_hash, {})
        findings += [_lost_archive(store, job_hash, name) for name in sorted(wanted.keys() - present)]
        sizes = {Path("archives", name): size for name, size in wanted.items() if name in present and size is not None}
        if job_hash in imports:
            sizes[Path("upload", spool.job(job_hash).import_archive.name)] = imports[job_hash]
        findings += await asyncio.to_thread(_damaged, spool, job_hash, sizes)
        findings += [_unfinished_file(store, spool, job_hash, name) for name in sorted(present) if _is_unfinished(name)]
    return findings


async def mend(findings: list[Finding]) -> list[dict[str, str]]:
    """Each finding as ``record`` has it, mended where that can be."""
    return [record(finding, "" if finding.mend is None else await finding.mend()) for finding in findings]


def record(finding: Finding, mended: str = "") -> dict[str, str]:
    """As ``scdctl --json`` shows it; ``mended`` is empty for what is as it was."""
    return {
        "job_hash": finding.job_hash, "problem": finding.problem, "remedy": finding.remedy, "mended": mended,
    }  # fmt: skip


def _is_unfinished(name: str) -> bool:
    """But for what is just being encrypted: that is looked after."""
    return name.startswith((".", "snapshot-")) and not name.endswith(SUFFIX)


def _damaged(spool: Spool, job_hash: str, sizes: Mapping[Path, int]) -> list[Finding]:
    """Of a job's files, by their places in its directory with the bytes that they had, those that are not whole."""
    findings = []
    for place, size in sorted(sizes.items()):
        try:
            found = plain_size(spool.job(job_hash).path / place)
            problem = f"holds {found} of {size} bytes" if found != size else ""
        except FileNotFoundError:
            problem = "is gone"
        except PermissionError:
            raise
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem and spool.job(job_hash).path.exists():  # else it was deleted meanwhile
            findings.append(Finding(job_hash, f"its {place} {problem}", "restore the file from a backup of the spool"))
    return findings


def _orphan(store: JobStore, spool: Spool, job_hash: str) -> Finding:
    path = spool.job(job_hash).path

    async def mend() -> str:
        if await store.job(job_hash) is not None or not await asyncio.to_thread(path.exists):
            return "gone by itself"
        return f"moved to {await asyncio.to_thread(spool.set_aside, job_hash)}"

    return Finding(job_hash, f"{path} belongs to no job in the database", f"move it to {spool.lost_and_found}", mend)


def _lost_files(store: JobStore, spool: Spool, job_hash: str) -> Finding:
    async def mend() -> str:
        if await asyncio.to_thread(spool.job(job_hash).path.exists):
            return "gone by itself"
        await store.database.write(lambda db: store.delete(db, job_hash))
        return "deleted; its final status stays known"

    return Finding(job_hash, "its files are gone", "delete the job, which leaves its final status", mend)


def _lost_archive(store: JobStore, job_hash: str, archive: str) -> Finding:
    async def mend() -> str:
        await store.database.write(lambda db: store.forget_archive(db, job_hash, archive))
        return "forgotten; a download is refused from now on, as it should be"

    return Finding(job_hash, f"its archive {archive} is gone", "forget the archive", mend)


def _unfinished_file(store: JobStore, spool: Spool, job_hash: str, name: str) -> Finding:
    async def mend() -> str:
        job = await store.job(job_hash)
        if job is None or not job.state.ended:  # resumed meanwhile: it may be finished yet
            return "gone by itself"
        await asyncio.to_thread((spool.job(job_hash).archives / name).unlink, missing_ok=True)
        return "removed"

    return Finding(job_hash, f"{name} was never finished", "remove the file", mend)
