"""What is submitted together, and what is not."""

import msgspec
import pytest

from scd.executors.arrays import arranged
from scd.executors.base import Spec
from scd.model import NodeKey
from scd.placement import Placement

HASH = "0123456789abcdef" * 2
SLURM = Placement(executor="slurm", cores=2)


def spec(n: int, job_hash: str = HASH) -> Spec:
    return Spec(
        name=f"scd-{job_hash}-{n}.1", job_hash=job_hash, design="d", jobname="j", runtime="r", archive=f"{n}.1.tar.gz",
        generation=1, unpack=False, key=NodeKey("syn", str(n)), ancestors=(("get", "0", "success"),), placement=SLURM,
    )  # fmt: skip


def arrays(specs: list[Spec], largest: int = 1000) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for one in arranged(specs, largest):
        found.setdefault(one.array, []).append((one.name.rpartition("-")[2], one.element))
    return found


def test_nodes_of_one_job_that_ask_for_the_same_go_together() -> None:
    assert arrays([spec(7), spec(8), spec(9)]) == {f"scd-{HASH}-7.1-array": [("7.1", 1), ("8.1", 2), ("9.1", 3)]}


@pytest.mark.parametrize(
    "other",
    [
        spec(2, "f" * 32),
        msgspec.structs.replace(spec(2), placement=Placement(executor="slurm", cores=3)),
        msgspec.structs.replace(spec(2), placement=Placement(executor="slurm", cores=2, options=("--qos=high",))),
        msgspec.structs.replace(spec(2), placement=Placement(cores=2)),
        msgspec.structs.replace(spec(2), ancestors=()),
        msgspec.structs.replace(spec(2), key=None),
    ],
    ids=["another job", "cores", "options", "here", "other nodes before", "a preparation"],
)
def test_what_differs_goes_alone(other: Spec) -> None:
    assert arrays([spec(1), other]) == {"": [("1.1", 0), ("2.1", 0)]}


@pytest.mark.parametrize("largest", [0, 1])
def test_without_arrays_each_goes_alone(largest: int) -> None:
    assert list(arrays([spec(1), spec(2)], largest)) == [""]


def test_more_than_an_array_may_have_are_several() -> None:
    found = arrays([spec(n) for n in range(1, 8)], 3)
    assert {array: len(members) for array, members in found.items()} == {
        f"scd-{HASH}-1.1-array": 3, f"scd-{HASH}-4.1-array": 3, "": 1,
    }  # fmt: skip
