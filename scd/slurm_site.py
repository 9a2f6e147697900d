"""What a site's configuration of Slurm says to those who ask its controller. Pure."""

import re
from typing import NamedTuple

from .slurm_cli import Answer

_NAMES = {"burst": "rl_bucket_size", "refill": "rl_refill_rate", "period": "rl_refill_period"}


class Limit(NamedTuple):
    """``rl_enable``: so many requests of one account are answered at once, then ``refill`` every ``period`` seconds."""

    burst: int = 30
    refill: int = 2
    period: int = 1

    def __str__(self) -> str:
        return f"{self.burst} at once and {self.refill} every {self.period} s"


class Site(NamedTuple):
    limit: Limit | None = None  # Slurm 23.02 and newer may have one
    unlimited: int | None = None  # the uid that it does not hold for: SlurmUser's
    largest_array: int = 0  # elements, numbered from 1; 0 where there are no arrays


def show_config() -> list[str]:
    return ["scontrol", "show", "config"]


def site(answer: Answer) -> Site | None:
    """None if the answer says nothing."""
    if answer.code != 0:
        return None
    found = dict(re.findall(r"^(\w+) *= (.*)$", answer.out, re.MULTILINE))
    parameters = found.get("SlurmctldParameters", "")
    limit = None
    if "rl_enable" in parameters.lower():
        values = {key: _number(parameters, name) for key, name in _NAMES.items()}
        limit = Limit(**{key: value for key, value in values.items() if value})
    user = re.search(r"\((\d+)\)", found.get("SlurmUser", ""))
    most = max(0, int(size) - 1) if (size := found.get("MaxArraySize", "")).isdigit() else 0
    tasks = _number(found.get("SchedulerParameters", ""), "max_array_tasks")
    return Site(limit, int(user[1]) if user else None, most if tasks is None else min(most, tasks))


def _number(text: str, name: str) -> int | None:
    value = re.search(rf"\b{name}=(\d+)", text, re.IGNORECASE)
    return int(value[1]) if value else None
