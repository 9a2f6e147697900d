import pytest

from scd.config import Budget, Duration, Limits, SharedLimits, Size
from scd.errors import LimitReached, ResultTooLarge, TooManyNodes
from scd.limits import UNLIMITED, admit, check_nodes, check_result, exhausted, full, left, period_start
from scd.model import Usage

ENDS = "The period ends 1971-01-01 00:00 UTC."
WAIT = "Wait for one to end, or cancel one."
NOTHING = Usage(core_seconds=0, result_bytes=0, unfinished_jobs=0, period_ends=86400 * 365)


def own(limits: SharedLimits) -> Budget:
    return Budget("", ("alice",), limits)


def vlsi(limits: SharedLimits) -> Budget:
    return Budget("vlsi", ("alice", "bob"), limits)


def test_who_has_used_nothing_is_admitted() -> None:
    check_nodes(Limits(), 200)
    admit([(own(Limits().shared), NOTHING)], 10**9)
    admit([(own(SharedLimits()), Usage(1e12, 10**15, 10**6, 0, 10**15))], 10**15)


def test_too_many_nodes() -> None:
    with pytest.raises(TooManyNodes, match=r"^Too many nodes in flowgraph: 201, and 200 are allowed\.$") as caught:
        check_nodes(Limits(), 201)
    assert caught.value.http_status == 403


@pytest.mark.parametrize(
    ("limits", "usage", "text"),
    [
        (SharedLimits(compute_time=Duration(3600)), Usage(3600, 0, 0, 86400 * 365),
         "is out of compute time{}: 01:00:00 of 01:00:00 core time used. " + ENDS),
        (SharedLimits(bandwidth=Size(1024)), Usage(0, 2048, 0, 86400 * 365),
         "is out of bandwidth: 2KiB of 1KiB downloaded. " + ENDS),
        (SharedLimits(max_jobs=2), Usage(0, 0, 2, 0),
         "has 2 unfinished jobs, and 2 are allowed. " + WAIT),
        (SharedLimits(storage=Size(4096)), Usage(0, 0, 2, 0, 2048),
         "has no room for this upload of 2.5KiB: unfinished jobs hold 2KiB of 4KiB. " + WAIT),
    ],
)  # fmt: skip
def test_each_limit_has_its_answer(limits: SharedLimits, usage: Usage, text: str) -> None:
    for budget, who, whose in ((own(limits), "The account ", ""), (vlsi(limits), "The group vlsi ", " of group vlsi")):
        with pytest.raises(LimitReached) as caught:
            admit([(own(SharedLimits()), usage), (budget, usage)], 2560)
        assert caught.value.message == who + text.format(whose)
        assert caught.value.http_status == 400


def test_an_upload_that_just_fits_is_taken() -> None:
    admit([(own(SharedLimits(storage=Size(4096))), Usage(0, 0, 2, 0, 2048))], 2048)


def test_running_nodes_say_whose_limit_it_is() -> None:
    assert full(own(SharedLimits(max_running_nodes=4))) == "over your running-node limit of 4"
    assert full(vlsi(SharedLimits(max_running_nodes=4))) == "over the running-node limit of group vlsi of 4"


def test_compute_time_is_used_up_at_the_limit_and_not_before() -> None:
    budget = own(SharedLimits(compute_time=Duration(60)))
    assert exhausted(budget, 59.9, 0) == ""
    assert exhausted(budget, 60.0, 0).startswith("out of compute time: 00:01:00 of 00:01:00")


def test_a_download_over_the_limit() -> None:
    check_result(Limits(max_result=Size(1024)), 1024, "here")
    with pytest.raises(ResultTooLarge, match=r"have 2KiB, and 1KiB can .* finds them at /x\.$") as caught:
        check_result(Limits(max_result=Size(1024)), 2048, "/x")
    assert caught.value.http_status == 503


def test_what_is_left_is_always_a_number() -> None:
    assert left([(own(SharedLimits()), NOTHING)]) == {"compute_time": UNLIMITED, "bandwidth_kb": UNLIMITED}
    limits = SharedLimits(compute_time=Duration(100), bandwidth=Size(10240))
    assert left([(own(limits), Usage(30.5, 1024, 0, 0))]) == {"compute_time": 69, "bandwidth_kb": 9}
    assert left([(own(limits), Usage(1000, 10**9, 0, 0))]) == {"compute_time": 0, "bandwidth_kb": 0}
    assert float(UNLIMITED) == UNLIMITED


def test_the_least_that_is_left_is_shown() -> None:
    mine, ours = (
        SharedLimits(compute_time=Duration(100)),
        SharedLimits(compute_time=Duration(500), bandwidth=Size(2048)),
    )
    spent = [(own(mine), Usage(10, 0, 0, 0)), (vlsi(ours), Usage(490, 1024, 0, 0))]
    assert left(spent) == {"compute_time": 10, "bandwidth_kb": 1}


def test_periods_roll_by_themselves() -> None:
    assert [period_start(100, at) for at in (0, 99.9, 100, 250)] == [0, 0, 100, 200]
