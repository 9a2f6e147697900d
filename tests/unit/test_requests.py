from collections.abc import Sequence

import msgspec
import pytest

from scd.launcher.batches import MOST_ERR, MOST_OUT
from scd.launcher.requests import (
    MOST_BATCHES,
    MOST_BYTES,
    MOST_PIDS,
    MOST_SUBMISSIONS,
    Adopt,
    Cancel,
    GiveUp,
    Member,
    Reply,
    Start,
    Submit,
    Usage,
    decode,
    encode,
    read,
)  # fmt: skip
from scd.model import NodeKey
from scd.placement import Placement
from scd.slurm_cli import Answer
from scd.states import NodeState

HASH = "0f" * 16


def test_a_request_is_read_as_it_was_written() -> None:
    for request in (Start(HASH, "alice", "design", "job0", "default"), Adopt(HASH, "a.b-c_9"), Usage("alice", (1, 2))):
        assert decode(encode(request)) == request


@pytest.mark.parametrize("job_hash", ["", "0" * 31, "0" * 33, "0F" * 16, HASH + "\n", "../" + "0" * 29, "0" * 31 + "/"])
def test_a_hash_fits_in_full(job_hash: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"adopt","account":"alice","job_hash":' + msgspec.json.encode(job_hash) + b"}")


@pytest.mark.parametrize("account", ["", "-rf", "a b", "a/b", "..", "alice\n", "0", "a" * 33, "ä"])
def test_an_account_is_a_name(account: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"check","account":' + msgspec.json.encode(account) + b"}")


def test_not_too_many_processes_at_a_time() -> None:
    decode(encode(Usage("alice", tuple(range(MOST_PIDS)))))
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"usage","account":"alice","pids":' + msgspec.json.encode(list(range(MOST_PIDS + 1))) + b"}")


def submission(members: Sequence[Sequence[object]], array: str = "", **more: object) -> bytes:
    whole = Submit(HASH, "alice", (Member("1.1", "syn", "0"),), "d", "job0", "default", "alice", Placement("slurm"))
    return msgspec.json.encode(msgspec.json.decode(encode(whole)) | {"members": members, "array": array, **more})


def test_what_a_submission_is_called_follows_from_job_and_attempt() -> None:
    node = decode(submission([["3.12", "syn", "0"], ["4.1", "syn", "1"]]))
    assert isinstance(node, Submit)
    assert decode(encode(node)) == node
    assert [node.name(member.attempt) for member in node.members] == [f"scd-{HASH}-3.12", f"scd-{HASH}-4.1"]
    assert node.members[0].key == NodeKey("syn", "0")
    assert Member("0.1").key is None


def test_members_of_a_submission_fit_together() -> None:
    nodes = [[f"{n}.1", "syn", str(n), n] for n in range(1, MOST_BATCHES + 1)]
    for members, array in (([["0.1"]], ""), (nodes[:MOST_SUBMISSIONS], ""), (nodes, "1.1")):
        decode(submission(members, array))
    for members, array, more in (
        ([], "", {}),
        ([["0.1"], ["1.1"]], "", {}),
        (nodes[: MOST_SUBMISSIONS + 1], "", {}),
        ([*nodes, ["501.1", "syn", "501", 501]], "1.1", {}),
        ([["1.1", "syn", "0", 1], ["2.1", "syn", "1", 1]], "1.1", {}),
        ([["1.1", "syn", "0", 0]], "1.1", {}),
        ([["1.1", "syn", "0", -1]], "1.1", {}),
        ([["1.1", "syn", "0", 1]], "1.1-array", {}),
        ([["1.1/..", "syn", "0"]], "", {}),
        ([["1.1", "syn\0", "0"]], "", {}),
        ([["1.1", "s" * 5000, "0"]], "", {}),
        ([["1.1", "syn", "0"]], "", {"generation": -1}),
    ):
        with pytest.raises(msgspec.ValidationError):
            decode(submission(members, array, **more))


def of_attempt(attempt: str) -> tuple[bytes, bytes]:
    place = {"request": "make_places", "job_hash": HASH, "account": "alice", "attempts": ["1.1", attempt]}
    end = {"request": "give_up", "job_hash": HASH, "attempts": ["1.1", attempt], "state": "error", "reason": ""}
    return msgspec.json.encode(place), msgspec.json.encode(end)


@pytest.mark.parametrize("attempt", ["", "1", "1.", ".1", "1.0", "01.1", "1.1.1", "../1.1", "1.1\n", "1.1/x", "-1.1"])
def test_an_attempt_is_two_numbers(attempt: str) -> None:
    for right, wrong in zip(of_attempt("0.1"), of_attempt(attempt), strict=True):
        decode(right)
        with pytest.raises(msgspec.ValidationError):
            decode(wrong)


def test_not_too_many_batch_jobs_at_a_time() -> None:
    decode(encode(GiveUp(HASH, ("1.1",) * MOST_BATCHES, NodeState.ERROR, "")))
    decode(encode(Cancel("alice", ("17", "17_1") * (MOST_BATCHES // 2))))
    for ids in (["17"] * (MOST_BATCHES + 1), ["-u"], ["17 18"], ["--user=bob"], ["17_"], ["17_[1-2]"], [""]):
        with pytest.raises(msgspec.ValidationError):
            decode(b'{"request":"cancel","account":"alice","ids":' + msgspec.json.encode(ids) + b"}")


def test_replies() -> None:
    assert encode(Reply()) == b"{}"
    assert read(encode(Reply(value=[1]))).value == [1]
    assert read(encode(Reply(error="no"))).error == "no"


@pytest.mark.parametrize("character", ["\x01", "\ufffd", "\U0001f600", '"'])
def test_the_answers_to_the_largest_round_fit_into_one_reply(character: str) -> None:
    longest = Answer(-127, character * MOST_OUT, character * MOST_ERR)
    assert len(encode(Reply([longest] * MOST_SUBMISSIONS))) <= MOST_BYTES
