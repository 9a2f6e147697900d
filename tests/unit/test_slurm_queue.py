"""Slurm's queue: what squeue's lines mean. The texts are those of Slurm 22.05.8."""

import pytest

from scd.slurm_cli import Answer
from scd.slurm_queue import QueueRow, best, queue

HASH = "0123456789abcdef0123456789abcdef"
DOWN = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
QUEUE = f"""\
m|5|0|PENDING|N/A|N/A||scd-{HASH}-5.1|PartitionConfig
m|2|0|RUNNING|1795580575|1795581175|node1|scd-{HASH}-2.1|None
m|1|0|COMPLETED|1795580575|1795580576|node1|scd-{HASH}-1.1|None
m|4|0|FAILED|1795580575|1795580575|node1|scd-{HASH}-4.1|JobLaunchFailure
m|3|0|CANCELLED|1795580579|1795580579||scd-{HASH}-3.1|JobHeldUser
m|9|0|PENDING|N/A|N/A||scd-{HASH}-9.1|{DOWN}
"""


def row(state: str, **fields: object) -> QueueRow:
    known = {"id": "1", "started": 1.0, "ended": 2.0, "nodes": "node1", "name": "n", "reason": "None"} | fields
    return QueueRow(state=state, **known)  # type: ignore[arg-type]


def test_the_queue_is_read_by_name() -> None:
    found = queue(Answer(0, QUEUE, ""), "m")
    assert found is not None
    assert {name.rpartition("-")[2]: rows[0].state for name, rows in found.items()} == {
        "5.1": "PENDING", "2.1": "RUNNING", "1.1": "COMPLETED", "4.1": "FAILED", "3.1": "CANCELLED", "9.1": "PENDING",
    }  # fmt: skip
    (running,) = found[f"scd-{HASH}-2.1"]
    assert (running.id, running.started, running.nodes, running.elapsed) == ("2", 1795580575.0, "node1", 0.0)
    (cancelled,) = found[f"scd-{HASH}-3.1"]
    assert cancelled.never_ran
    (waiting,) = found[f"scd-{HASH}-9.1"]
    assert waiting.reason == DOWN, "a reason holds commas and spaces"


@pytest.mark.parametrize(
    "line",
    [
        f"5|alice|RUNNING|1|2|n|scd-{HASH}-5.1|None",
        "5|0|RUNNING|1|2|n|their job|None",
        f"5|0|RUNNING|1|2|n|scd-{HASH}-5.1x|None",
        f"5_|0|RUNNING|1|2|n|scd-{HASH}-5.1|None",
        f"5_[1-]|0|RUNNING|1|2|n|scd-{HASH}-5.1|None",
        f"5_[1,x]|0|RUNNING|1|2|n|scd-{HASH}-5.1|None",
        f"5|0|FAILED|1|1||scd-{HASH}-5.1|BadConstraints",  # what a refused submission leaves
        "||||||||",
        "slurm_load_jobs error: Unable to contact slurm controller",
        "",
    ],
)
def test_what_is_not_ours_is_not_read(line: str) -> None:
    assert queue(Answer(0, f"m|{line}\n", ""), "m") == {}


def test_a_name_that_looks_like_a_line_is_none() -> None:
    forged = f"5|0|RUNNING|1|2|n|scd-{HASH}-5.1|None"
    text = f"m|7|1000|PENDING|N/A|N/A||x\n{forged}\rm|8\n{forged}|JobHeldUser\n"
    assert queue(Answer(0, text, ""), "m") == {}


@pytest.mark.parametrize(
    ("job", "elements"),
    [
        ("12_7", [7]), ("12_[7]", [7]), ("12_[1-3]", [1, 2, 3]), ("12_[0,5-6,9%4]", [0, 5, 6, 9]),
        ("12_[1-13:4]", [1, 5, 9, 13]), ("12_[0-4:2,9%1]", [0, 2, 4, 9]),
    ],
)  # fmt: skip
def test_elements_of_an_array_are_told_one_by_one(job: str, elements: list[int]) -> None:
    found = queue(Answer(0, f"m|{job}|0|PENDING|N/A|N/A||scd-{HASH}-5.1|Resources\n", ""), "m")
    assert found is not None
    assert [row.id for row in found[f"scd-{HASH}-5.1"]] == [f"12_{number}" for number in elements]


@pytest.mark.parametrize("answer", [Answer(1, QUEUE, ""), Answer(None, "", ""), Answer(-9, "", "")])
def test_a_failed_answer_is_no_empty_queue(answer: Answer) -> None:
    assert queue(answer, "m") is None


def test_the_one_that_may_still_do_something_counts() -> None:
    ended, running, waiting = row("COMPLETED", id="9"), row("RUNNING", id="3"), row("PENDING", id="7")
    assert best([ended, running, waiting]) is running
    assert best([ended, waiting]) is waiting
    assert best([row("FAILED", id="3"), ended]) is ended
    assert best([row("SOMETHING_NEW", id="1"), ended]).state == "SOMETHING_NEW"  # type: ignore[union-attr]
    assert best([]) is None


def test_whose_a_job_is_comes_with_it() -> None:
    text = f"m|5|1000|RUNNING|1|2|n|scd-{HASH}-5.1|None\nm|6|7|PENDING|N/A|N/A||scd-{HASH}-5.1|None\n"
    found = queue(Answer(0, text, ""), "m")
    assert found is not None
    assert [(row.id, row.user) for row in found[f"scd-{HASH}-5.1"]] == [("5", 1000), ("6", 7)]


def test_elements_of_an_array_have_names_of_their_own() -> None:
    array = f"scd-{HASH}-5.1-array"
    lines = f"m|7_1|0|RUNNING|1|2|n|{array}|None\nm|7_[2-3]|0|PENDING|N/A|N/A||{array}|Priority\n"
    found = queue(Answer(0, lines, ""), "m")
    assert found is not None
    assert {name: [row.id for row in rows] for name, rows in found.items()} == {
        array: ["7_1"], f"{array}_1": ["7_1"], f"{array}_2": ["7_2"], f"{array}_3": ["7_3"],
    }  # fmt: skip


def test_what_is_left_of_an_array_is_under_its_own_name() -> None:
    found = queue(Answer(0, f"m|7|0|CANCELLED|1|1||scd-{HASH}-5.1-array|None\n", ""), "m")
    assert found is not None
    (row,) = found[f"scd-{HASH}-5.1-array"]
    assert (row.array, row.has_ended) == ("7", True)
