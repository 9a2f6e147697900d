"""What follows from what is seen of a batch job, with a clock of the tests'. The records are real files."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from scd.executors import places
from scd.executors.base import Spec
from scd.executors.submission import MARGIN, Stage, Submission
from scd.launcher import claims
from scd.model import NodeKey
from scd.placement import Placement
from scd.slurm_cli import Verdict
from scd.slurm_queue import QueueRow
from scd.states import NodeState

NAME = "scd-0123456789abcdef0123456789abcdef-1.1"
TIMEOUT = 60.0
_HUGE = 10**400


@pytest.fixture
def known(tmp_path: Path) -> Submission:
    spec = Spec(
        name=NAME, job_hash="0123456789abcdef0123456789abcdef", design="d", jobname="j", runtime="r",
        archive="1.1.tar.gz", generation=1, unpack=False, key=NodeKey("syn", "0"),
        placement=Placement(executor="slurm", memory=2**30, time=3600.0),
    )  # fmt: skip
    place = tmp_path / "slurm" / "1.1"
    assert claims.make(place)
    made = Submission(spec, place, TIMEOUT, "boot")
    made.take_answer(Verdict.ACCEPTED, "17")
    return made


def see(known: Submission, now: float, *states: str, nodes: str = "node1", reason: str = "None") -> None:
    """A look at ``now`` in which Slurm has the job in these states; none: it answers, and does not have it."""
    rows = [QueueRow(str(17 + i), state, 100.0, 160.0, nodes, NAME, reason) for i, state in enumerate(states)]
    known.judge(rows, places.look(known.place, known_started=known.seen.started is not None), now)
    if known.doom is not None:
        known.end(*known.doom)


def no_answer(known: Submission, now: float) -> None:
    known.judge(None, places.look(known.place, known_started=known.seen.started is not None), now)


def write(known: Submission, name: str, fields: Mapping[str, object]) -> None:
    base = {"type": name, "name": NAME, "at": 1000.0, "mono": 1.0, "boot": "elsewhere"}
    (known.place / f"{name}.json").write_text(json.dumps({**base, **fields}))


def claim(known: Submission) -> None:
    (known.place / "claim").mkdir()


def ended(known: Submission, state: str = "success", **fields: object) -> None:
    write(known, "ended", {"archive": "1.1.tar.gz", "state": state, "reason": "", "elapsed": 5.0, **fields})


def test_a_record_ends_it_whatever_slurm_says(known: Submission) -> None:
    see(known, 1, "RUNNING")
    ended(known)
    no_answer(known, 2)
    assert known.seen.state is NodeState.SUCCESS
    assert (known.seen.elapsed, known.seen.archive) == (5.0, "1.1.tar.gz")


def test_no_answer_ends_nothing(known: Submission) -> None:
    claim(known)
    see(known, 1, "RUNNING")
    for now in range(2, 10000, 100):
        no_answer(known, now)
    assert known.seen.state is None
    assert known.missing is None


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT"])
def test_a_record_is_waited_for(known: Submission, state: str) -> None:
    claim(known)
    see(known, 10, state)
    see(known, 10 + TIMEOUT - 1, state)
    assert known.seen.state is None, "it was given up while its record could still come"
    ended(known)
    see(known, 10 + TIMEOUT + 1, state)
    assert known.seen.state is NodeState.SUCCESS


def test_without_a_record_slurms_word_counts_in_the_end(known: Submission) -> None:
    claim(known)
    see(known, 10, "NODE_FAIL")
    see(known, 10 + TIMEOUT, "NODE_FAIL")
    assert known.seen.state is NodeState.ERROR
    assert known.seen.reason == "its node failed (on node1)"
    assert known.seen.lost
    assert known.seen.elapsed == 60.0, "it is charged by Slurm's times"


def test_a_sign_of_life_keeps_it(known: Submission) -> None:
    claim(known)
    alive = known.place / "alive"
    for now in range(10, 1000, 30):
        alive.touch()
        os.utime(alive, (now, now))
        see(known, now, "NODE_FAIL")
    assert known.seen.state is None, "a node that lives was declared dead"
    see(known, 990 + TIMEOUT, "NODE_FAIL")
    assert known.seen.lost


def test_what_slurm_forgot_and_somebody_claimed_is_lost_in_the_end(known: Submission) -> None:
    claim(known)
    see(known, 1, "RUNNING")
    see(known, 10)
    see(known, 10 + TIMEOUT - 1)
    assert known.seen.state is None
    see(known, 10 + TIMEOUT)
    assert known.seen.reason == "Slurm does not know it any more, and it left no record"


def test_what_slurm_forgot_and_nobody_claimed_may_be_submitted_again(known: Submission) -> None:
    see(known, 10)
    assert known.missing is not None
    no_answer(known, 11)
    see(known, 10 + 10 * TIMEOUT)
    assert not known.ended
    known.send_again()
    assert [known.stage, known.missing, known.seen.handle] == [Stage.WAITING, None, ""]


def test_an_id_is_known_by_its_name(known: Submission) -> None:
    known.take_answer(Verdict.UNCERTAIN, "no answer in time")
    assert known.stage is Stage.UNCERTAIN
    see(known, 1, "PENDING", "COMPLETED", nodes="")
    assert (known.stage, known.seen.handle) == (Stage.SUBMITTED, "17")


def test_cancelled_before_it_began(known: Submission) -> None:
    see(known, 1, "PENDING", nodes="")
    see(known, 2, "CANCELLED", nodes="")
    assert known.seen.reason == "cancelled in Slurm, not by scd"
    assert not known.seen.lost, "nobody but its owner starts it again"


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("TIMEOUT", NodeState.TIMEOUT, "over its time limit of 01:00:00"),
        ("CANCELLED", NodeState.ERROR, "cancelled in Slurm, not by scd"),
        ("PREEMPTED", NodeState.ERROR, "preempted by a job of higher priority"),
        ("FAILED", NodeState.ERROR, "ended by a signal from outside"),
    ],
)
def test_slurm_says_why_a_node_was_ended_from_outside(
    known: Submission, word: str, state: NodeState, reason: str
) -> None:
    claim(known)
    see(known, 1, "RUNNING")
    ended(known, "error", signalled=True, reason="ended by a signal from outside")
    see(known, 2, "COMPLETING")
    assert not known.ended, "Slurm's word is not there yet"
    see(known, 3, word)
    assert [known.seen.state, known.seen.reason] == [state, reason]


def test_slurms_word_is_not_waited_for_for_ever(known: Submission) -> None:
    ended(known, "error", signalled=True, reason="ended by a signal from outside")
    see(known, 1)
    see(known, 1 + MARGIN)
    assert known.seen.reason == "ended by a signal from outside"


def test_memory_that_ran_out_is_known_by_slurms_word(known: Submission) -> None:
    ended(known, "error", exit_code=-9, reason="killed by SIGKILL")
    see(known, 1, "OUT_OF_MEMORY")
    assert known.seen.out_of_memory
    assert known.seen.reason == "out of memory: 1024 MiB were asked for (on node1)"


def test_a_nodes_own_failure_is_its_own(known: Submission) -> None:
    ended(known, "error", exit_code=1, reason="syn failed")
    see(known, 1, "COMPLETING")
    assert not known.ended, "Slurm's word is not there yet"
    assert known.awaits_word
    see(known, 2, "FAILED")
    assert (known.seen.state, known.seen.reason, known.seen.lost) == (NodeState.ERROR, "syn failed", False)
    assert not known.awaits_word


@pytest.mark.parametrize("state", ["TIMEOUT", "CANCELLED", "PREEMPTED", "COMPLETED"])
def test_what_came_after_a_nodes_own_failure_does_not_count(known: Submission, state: str) -> None:
    ended(known, "error", exit_code=1, reason="syn failed")
    see(known, 1, state)
    assert (known.seen.state, known.seen.reason, known.seen.lost) == (NodeState.ERROR, "syn failed", False)


def test_a_tool_that_was_killed_for_its_memory_is_known_by_slurms_word(known: Submission) -> None:
    """The node itself lives, and says that its tool failed."""
    ended(known, "error", exit_code=1, reason="syn failed")
    see(known, 1, "RUNNING")
    see(known, 2, "OUT_OF_MEMORY")
    assert known.seen.out_of_memory
    assert known.seen.reason == "out of memory: 1024 MiB were asked for (on node1)"


def test_a_nodes_own_failure_does_not_wait_for_a_controller_that_is_away(known: Submission) -> None:
    ended(known, "error", exit_code=1, reason="syn failed")
    no_answer(known, 1)
    assert not known.ended
    no_answer(known, 1 + MARGIN)
    assert (known.seen.state, known.seen.reason) == (NodeState.ERROR, "syn failed")


def test_who_cancels_has_the_last_word_unless_it_succeeded(known: Submission) -> None:
    known.kill = (NodeState.ERROR, "cancelled: by alice")
    ended(known, "error", signalled=True, lost=True)
    no_answer(known, 1)
    assert (known.seen.reason, known.seen.lost) == ("cancelled: by alice", False)


def test_a_success_beside_a_cancel_is_one(known: Submission) -> None:
    known.kill = (NodeState.ERROR, "cancelled: by alice")
    ended(known)
    no_answer(known, 1)
    assert known.seen.state is NodeState.SUCCESS


def test_a_second_start_that_found_the_claim_ends_nothing(known: Submission) -> None:
    claim(known)
    see(known, 1, "RUNNING", "COMPLETED")
    see(known, 1 + 2 * TIMEOUT, "RUNNING", "COMPLETED")
    assert known.seen.state is None


def test_a_launch_that_failed_says_what_to_look_at(known: Submission) -> None:
    (known.place / "output").write_text("slurmstepd: error: something\npython: not found\n")
    see(known, 1, "FAILED", reason="JobLaunchFailure")
    see(known, 1 + TIMEOUT, "FAILED", reason="JobLaunchFailure")
    assert known.seen.reason.endswith("JobLaunchFailure (on node1); it said: python: not found")


def test_a_record_that_makes_no_sense_is_an_error(known: Submission) -> None:
    (known.place / "ended.json").write_text('{"type": "ended", "state": "success"}')
    no_answer(known, 1)
    assert known.seen.state is NodeState.ERROR


@pytest.mark.parametrize("value", ["5", -1.0, True, None, {}, [1], _HUGE, math.nan, math.inf])
@pytest.mark.parametrize("field", ["at", "elapsed"])
def test_a_figure_that_is_none_ends_its_node_alone(known: Submission, field: str, value: object) -> None:
    """Its account can write it, and scd calculates with it: it once ended the daemon."""
    fields = {"archive": "1.1.tar.gz", "state": "success", "reason": "", "elapsed": 5.0, field: value}
    write(known, "ended", fields)
    see(known, 1)
    no_answer(known, 1 + MARGIN)
    assert known.seen.state is NodeState.ERROR
    assert known.seen.reason == "its record makes no sense"
    assert known.seen.elapsed == 0.0


@pytest.mark.parametrize("fields", [{"at": "5"}, {"at": _HUGE}, {"mono": "x"}, {"boot": "boot", "pid": "1", "at": 5.0}])
def test_a_beginning_that_is_none_is_not_taken_over(known: Submission, fields: dict[str, object]) -> None:
    write(known, "started", {"pid": 7, **fields})
    see(known, 1, "RUNNING")
    assert known.seen.started is None
    ended(known)
    no_answer(known, 2)
    assert known.seen.state is NodeState.SUCCESS


def test_what_a_crash_left_of_its_output_is_shown_without_control_characters(known: Submission) -> None:
    claim(known)
    (known.place / "output").write_bytes(b"python: \0\x1b[31mnot found\0\0\0")
    see(known, 1, "NODE_FAIL")
    see(known, 1 + TIMEOUT, "NODE_FAIL")
    assert known.seen.state is NodeState.ERROR
    assert known.seen.reason.isprintable()
    assert "not found" in known.seen.reason


def test_whoever_gives_up_first_keeps_it_from_running(known: Submission) -> None:
    assert claims.give_up(known.place, NodeState.ERROR, "cancelled")
    assert places.look(known.place, known_started=False).claimed
    with pytest.raises(FileExistsError):
        claim(known)


def test_what_runs_is_told(known: Submission) -> None:
    claim(known)
    assert not claims.give_up(known.place, NodeState.ERROR, "cancelled")
    assert json.loads((known.place / "revoked").read_text()) == {"state": "error", "reason": "cancelled"}


def test_what_another_account_calls_so_is_not_its_own(known: Submission) -> None:
    rows = [QueueRow(str(user), "RUNNING", 1.0, 2.0, "n", NAME, "None", user) for user in (1000, 1001)]
    assert known.own({NAME: rows}) == [], "whose it is, is not known yet"
    known.owner = 1001
    assert [row.id for row in known.own({NAME: rows})] == ["1001"]


# -- elements of an array

ARRAY = f"{NAME}-array"


@pytest.fixture
def element(known: Submission) -> Submission:
    known.spec = msgspec.structs.replace(known.spec, array=ARRAY, element=3)
    known.owner = 1000
    known.take_answer(Verdict.ACCEPTED, "17")
    return known


def look(element: Submission, now: float, *rows: QueueRow) -> None:
    """``rows``: what Slurm has of the array's name."""
    queue: dict[str, list[QueueRow]] = {ARRAY: list(rows)}
    for row in rows:
        queue.setdefault(f"{ARRAY}_{row.id.partition('_')[2]}", []).append(row)
    element.judge(element.own(queue), places.look(element.place, known_started=False), now)


def of_array(job: str, state: str = "PENDING", user: int = 1000) -> QueueRow:
    return QueueRow(job, state, None, None, "", ARRAY, "None", user)


def test_an_element_is_known_by_its_number(element: Submission) -> None:
    assert element.seen.handle == "17_3"
    look(element, 1, of_array("17_2"), of_array("17_3"))
    assert element.row is not None
    assert element.row.id == "17_3"


@pytest.mark.parametrize("others", [["17_2"], ["17"]], ids=["others wait", "nothing is left of the array"])
def test_an_element_that_slurm_took_out_was_cancelled(element: Submission, others: list[str]) -> None:
    for now in (1, 1 + MARGIN):
        assert element.doom is None
        look(element, now, *(of_array(job) for job in others))
    assert element.doom == (NodeState.ERROR, "cancelled in Slurm, not by scd", False)


@pytest.mark.parametrize("rows", [[], [of_array("18_2")], [of_array("17_2", user=1001)]],
                         ids=["nothing", "another array", "somebody else's"])  # fmt: skip
def test_an_array_that_slurm_has_forgotten_is_missing(element: Submission, rows: list[QueueRow]) -> None:
    for now in (1, 1 + MARGIN):
        look(element, now, *rows)
    assert element.doom is None
    assert element.missing == 1, "it would not be submitted again"


def test_an_element_that_began_is_waited_for_without_a_row(element: Submission) -> None:
    claim(element)
    for now in (1, 1 + MARGIN):
        look(element, now, of_array("17_2"))
    assert element.doom is None
