import pytest

from scd.config import Duration, Limits, Size
from scd.errors import LimitReached, ResultTooLarge, TooManyNodes
from scd.limits import UNLIMITED, admit, check_result, left, period_start
from scd.model import Usage

FREE = Limits(max_nodes=None, compute_time=None, bandwidth=None, max_result=None, max_jobs=None)
ENDS = "The period ends 1971-01-01 00:00 UTC."
NOTHING = Usage(core_seconds=0, result_bytes=0, unfinished_jobs=0, period_ends=86400 * 365)


def test_who_has_used_nothing_is_admitted() -> None:
    admit(Limits(), NOTHING, 200)
    admit(FREE, Usage(1e12, 10**15, 10**6, 0), 10**6)


def test_too_many_nodes() -> None:
    with pytest.raises(TooManyNodes, match=r"^Too many nodes in flowgraph: 201, and 200 are allowed\.$") as caught:
        admit(Limits(), NOTHING, 201)
    assert caught.value.http_status == 403


@pytest.mark.parametrize(
    ("limits", "usage", "text"),
    [
        (Limits(compute_time=Duration(3600)), Usage(3600, 0, 0, 86400 * 365),
         "The account is out of compute time: 01:00:00 of 01:00:00 core time used. " + ENDS),
        (Limits(bandwidth=Size(1024)), Usage(0, 2048, 0, 86400 * 365),
         "The account is out of bandwidth: 2KiB of 1KiB downloaded. " + ENDS),
        (Limits(max_jobs=2), Usage(0, 0, 2, 0),
         "The account has 2 unfinished jobs, and 2 are allowed. Wait for one to end, or cancel one."),
    ],
)  # fmt: skip
def test_each_limit_has_its_answer(limits: Limits, usage: Usage, text: str) -> None:
    with pytest.raises(LimitReached) as caught:
        admit(limits, usage, 1)
    assert caught.value.message == text
    assert caught.value.http_status == 400


def test_a_download_over_the_limit() -> None:
    check_result(Limits(max_result=Size(1024)), 1024, "here")
    with pytest.raises(ResultTooLarge, match=r"have 2KiB, and 1KiB can .* finds them at /x\.$") as caught:
        check_result(Limits(max_result=Size(1024)), 2048, "/x")
    assert caught.value.http_status == 503


def test_what_is_left_is_always_a_number() -> None:
    assert left(FREE, NOTHING) == {"compute_time": UNLIMITED, "bandwidth_kb": UNLIMITED}
    limits = Limits(compute_time=Duration(100), bandwidth=Size(10240))
    assert left(limits, Usage(30.5, 1024, 0, 0)) == {"compute_time": 69, "bandwidth_kb": 9}
    assert left(limits, Usage(1000, 10**9, 0, 0)) == {"compute_time": 0, "bandwidth_kb": 0}
    assert float(UNLIMITED) == UNLIMITED


def test_periods_roll_by_themselves() -> None:
    limits = Limits(period=Duration(100))
    assert [period_start(limits, at) for at in (0, 99.9, 100, 250)] == [0, 0, 100, 200]
