"""What a turn that failed has charged is charged once: turns fail every second for as long as a disk is full."""

import contextlib

from scd.config import Config, Local, Settings
from scd.dispatch import Dispatch
from scd.live import LiveJob
from scd.states import NodeState

from .rows import attempt, job


def test_what_failed_has_charged_nobody() -> None:
    dispatch = Dispatch(Settings(Config(local=Local(cores=4))))
    live = LiveJob(job(), [], [])
    (pick,) = dispatch.choose([live], {})  # alice is known from now on
    node = attempt(cores=4, elapsed=100.0, ended=1.0, state=NodeState.SUCCESS)
    for _ in range(5):
        with contextlib.suppress(OSError), dispatch.trying():
            dispatch.charge(live, node)
            raise OSError("the disk is full")
    assert dispatch._shares.share("alice", ()) == 0.0
    with dispatch.trying():
        dispatch.charge(live, node)
    assert dispatch._shares.share("alice", ()) == 400.0, "what is kept counts"
    assert pick.user == "alice"
