"""What scontrol says of a site. Recorded with 22.05 and 24.11."""

import pytest

from scd.slurm_cli import Answer
from scd.slurm_site import Limit, Site, site

SHOWN = """\
Configuration data as of 2026-11-25T08:00:45
MaxArraySize            = 1001
SchedulerParameters     = {scheduling}
SlurmUser               = slurm(64030)
SlurmctldParameters     = {parameters}
"""


def told(parameters: str = "(null)", scheduling: str = "bf_interval=1") -> Site | None:
    return site(Answer(0, SHOWN.format(parameters=parameters, scheduling=scheduling), ""))


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        ("(null)", None),
        ("enable_configless", None),
        ("rl_enable", Limit(30, 2, 1)),
        ("enable_configless,RL_Enable,rl_bucket_size=50", Limit(50, 2, 1)),
        ("rl_enable,rl_refill_rate=10,rl_refill_period=4,rl_bucket_size=0", Limit(30, 10, 4)),
    ],
)
def test_limits_on_requests(parameters: str, limit: Limit | None) -> None:
    assert told(parameters) == Site(limit, 64030, 1000)


def test_how_large_an_array_may_be() -> None:
    found = told(scheduling="bf_continue,max_array_tasks=200")
    assert found is not None
    assert found.largest_array == 200


def test_no_answer_says_nothing() -> None:
    assert site(Answer(1, "", "slurm_load_ctl_conf error")) is None
    assert site(Answer(0, "", "")) == Site()
