"""Every archive of the corpus against the unpacking itself, and some of them through a daemon."""

import dataclasses
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from scd.tar import Refused
from scd.unpack import Limits, unpack

from ..harness import Daemon
from ..integration.submission import leftovers, manifest
from .corpus import HOSTILE, Upload, accepted, hostile, mutated
from .tricks import MAX_BYTES, MAX_MEMBERS, MAX_RATIO, RATIO_FROM
from .watch import Watched, tree, watched

LIMITS = Limits(MAX_BYTES, MAX_MEMBERS, MAX_RATIO, RATIO_FROM)
# Where the absolute names of the corpus lead, beside the watched directory.
ELSEWHERE = (Path("/dev/shm/scd-escaped"), Path("/etc/passwd"), Path("/etc/shadow"))


@dataclasses.dataclass
class Outcome:
    """What became of one kind of archive. ``findings`` are what must not be, in words."""

    kind: str
    archives: int = 0
    refused: int = 0
    taken: int = 0
    findings: list[str] = dataclasses.field(default_factory=list)


def everything(seed: int, each: int, outside: Path) -> Iterator[tuple[str, Upload]]:
    """Kind and archive: ``each`` of every shape, hostile and harmless, and ten times as many damaged at random."""
    return chain(
        (("hostile", upload) for upload in hostile(seed, each, outside)),
        (("harmless", upload) for upload in accepted(seed, each, outside)),
        (("damaged at random", upload) for upload in mutated(seed, 10 * each, outside)),
    )


def unpack_all(seed: int, each: int, root: Path) -> list[Outcome]:
    """Unpack the whole corpus below ``root``, looking around after each one."""
    place = watched(root)
    outcomes: dict[str, Outcome] = {}
    before, elsewhere = place.picture(), [_time(path) for path in ELSEWHERE]
    for kind, upload in everything(seed, each, place.root / "escaped"):
        outcome = outcomes.setdefault(kind, Outcome(kind))
        outcome.archives += 1
        outcome.findings += [f"{upload.name}: {finding}" for finding in _unpack(upload, place, outcome)]
        if place.picture() != before or [_time(path) for path in ELSEWHERE] != elsewhere:
            outcome.findings.append(f"{upload.name}: something outside was written or changed")
            before, elsewhere = place.picture(), [_time(path) for path in ELSEWHERE]
        shutil.rmtree(place.target)
        place.target.mkdir()
        os.utime(place.target.parent, ns=(0, before[str(place.target.parent)][5]))  # type: ignore[arg-type]
    return list(outcomes.values())


def _unpack(upload: Upload, place: Watched, outcome: Outcome) -> Iterator[str]:
    """Unpack one archive, and say what is wrong with what became of it."""
    try:
        unpack(io.BytesIO(upload.data), place.target, LIMITS)
    except Refused as refusal:
        outcome.refused += 1
        if upload.tree is not None:
            yield f"it is harmless, but: {refusal}"
        if upload.reason is not None and upload.reason not in str(refusal):
            yield f"it was not refused for {upload.reason!r}, but: {refusal}"
        if not str(refusal).isprintable() or len(str(refusal)) > 600:
            yield f"its refusal is no message for a terminal: {str(refusal)!r}"
        if any(place.target.iterdir()):
            yield "some of it stayed"
        return
    except Exception as error:
        yield f"unpacking failed otherwise: {error!r}"
        return
    outcome.taken += 1
    if upload.reason is not None:
        yield f"it was taken; it should be refused for {upload.reason!r}"
    if upload.tree is not None and (found := tree(place.target)) != upload.tree:
        yield f"it says {_short(upload.tree)} and unpacked to {_short(found)}"
    for path in place.target.rglob("*"):
        if not Path(os.path.realpath(path)).is_relative_to(place.target):
            yield f"{path} leads to {os.path.realpath(path)}"


def submit_all(daemon: Daemon, uploads: Iterable[Upload]) -> Outcome:
    """Each as a job of a daemon that has the corpus's limits; it must be rejected, or run to its end."""
    outcome = Outcome("through the daemon")
    for upload in uploads:
        outcome.archives += 1
        answer = daemon.submit(manifest("chain"), upload.data)
        if not upload.data:  # to the client's protocol, that is a repetition
            outcome.refused += answer.status_code == 400
            continue
        job_hash = answer.json()["job_hash"]
        end = daemon.wait(job_hash)
        outcome.refused += end["status"] == "rejected"
        outcome.taken += end["status"] == "completed"
        if upload.tree is not None:
            if end["status"] != "completed":
                outcome.findings.append(f"{upload.name} is harmless, and the job is {end}")
            continue
        if end["status"] != "rejected" or f"{upload.reason}" not in end["message"]:
            outcome.findings.append(f"{upload.name} should be rejected for {upload.reason!r}, and the job is {end}")
        work = daemon.job_directory(job_hash) / "work" / job_hash / "top" / "job0"
        if list(work.iterdir()):
            outcome.findings.append(f"{upload.name}: some of it stayed: {list(work.iterdir())}")
    if left := leftovers(daemon.state / "spool"):
        outcome.findings.append(f"left in staging: {left}")
    return outcome


def one_of_each(seed: int, outside: Path) -> list[Upload]:
    """For a daemon, which looks at the ratio only above a size that has a test of its own."""
    return [upload for upload in hostile(seed, 1, outside) if not upload.name.startswith("a_bomb_by_ratio")]


def daemon_config() -> str:
    """The ``[server]`` keys that make a daemon as strict as the corpus expects it."""
    return f"max_unpacked = {MAX_BYTES}\nmax_members = {MAX_MEMBERS}\nmax_ratio = {MAX_RATIO}"


def shapes() -> int:
    return len(HOSTILE)


def _time(path: Path) -> int | None:
    return path.lstat().st_mtime_ns if path.exists() else None


def _short(found: object) -> str:
    return str(found)[:300]
