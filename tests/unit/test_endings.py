"""What is done about attempts that are not to go on, where Slurm cannot be told."""

import logging
from pathlib import Path

import msgspec
import pytest

from scd.config import Config, Settings, Slurm
from scd.executors import endings
from scd.executors.base import Spec
from scd.executors.batches import AccountBatches
from scd.executors.controller import Controller
from scd.executors.endings import Endings
from scd.executors.submission import Submission
from scd.launcher.gateway import Gateway
from scd.model import NodeKey
from scd.placement import Placement
from scd.slurm_cli import Verdict
from scd.slurm_queue import QueueRow
from scd.spool import Spool
from scd.states import NodeState

pytestmark = pytest.mark.anyio

JOB = "0123456789abcdef0123456789abcdef"


def pending(user: str, n: int) -> Submission:
    """One that was given up, and pends in Slurm."""
    name = f"scd-{JOB}-{n}.1"
    spec = Spec(
        name=name, job_hash=JOB, design="d", jobname="j", runtime="r", archive=f"{n}.1.tar.gz", generation=1,
        unpack=False, key=NodeKey("syn", str(n)), user=user, placement=Placement(executor="slurm"),
    )  # fmt: skip
    known = Submission(spec, Path("/nowhere"), 60.0, "boot")
    known.take_answer(Verdict.ACCEPTED, str(n))
    known.row = QueueRow(str(n), "PENDING", None, None, "", name, "Priority")
    known.kill, known.given_up = (NodeState.ERROR, "cancelled"), True
    return known


async def test_of_a_user_who_was_taken_out_of_the_configuration_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endings, "_RESEND", 0.0)
    settings = Settings(msgspec.convert({"slurm": {}, "users": {"alice": {"account": "alice"}}}, Config))
    controller = Controller(Slurm())
    told = Endings(controller, AccountBatches(Gateway(settings), Spool(tmp_path)), lambda: None)
    gone = [pending("mallory", n) for n in (1, 2)]
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await told.tell_slurm(gone)
        (line,) = caplog.messages
        assert line.startswith("user=mallory Slurm was not told to end jobs, which are given up all the same: ")
        assert "is not in the configuration any more" in line
        caplog.clear()
        await told.tell_slurm([pending("eve", 3)])
        assert [line.split()[0] for line in caplog.messages] == ["user=eve"], "another user's is not said"
    finally:
        controller.close()
