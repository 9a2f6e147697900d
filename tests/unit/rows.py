"""Rows as the tests of the store need them."""

import time

import msgspec

from scd.model import Attempt, Job
from scd.states import JobState

HASH = "ab" * 16


def job(job_hash: str = HASH, **fields: object) -> Job:
    base = Job(
        job_hash=job_hash, user="alice", state=JobState.QUEUED, reason="", design="top", jobname="job0", flow="flow",
        runtime="default", created=time.time(), started=None, ended=None, upload_bytes=10, digest="d", answered=False,
        cancel_reason=None, generation=1, plan=None,
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def attempt(name: str = "a1", step: str = "syn", number: int = 1, **fields: object) -> Attempt:
    base = Attempt(
        name=name, job_hash=HASH, step=step, index="0", attempt=number, executor="local", cores=2, queued=time.time()
    )
    return msgspec.structs.replace(base, **fields)
