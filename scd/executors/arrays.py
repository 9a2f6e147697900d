"""Which attempts are submitted together, as one job array of Slurm's. Pure."""

from collections.abc import Sequence

import msgspec

from ..launcher.requests import MOST_BATCHES
from ..placement import SLURM, Placement
from ..slurm_cli import array_name
from .base import Spec


def arranged(specs: Sequence[Spec], largest: int) -> list[Spec]:
    """The same, each with its array and its number in that, from 1. ``largest``: elements that an array may have.

    All of an array get the same from Slurm, so they have one placement, and they are told of the same nodes before.
    Its script holds an order for each, and one request to scd-launcher all of their names.
    """
    most = min(largest, MOST_BATCHES)
    groups: dict[tuple[str, Placement, tuple[tuple[str, str, str], ...]], list[Spec]] = {}
    for spec in specs:
        if most > 1 and spec.placement.executor == SLURM and spec.key is not None:
            groups.setdefault((spec.job_hash, spec.placement, spec.ancestors), []).append(spec)
    found = {spec.name: spec for spec in specs}
    for group in groups.values():
        for start in range(0, len(group), max(1, most)):
            part = group[start : start + most]
            if len(part) > 1:
                array = array_name(part[0].name)
                for number, spec in enumerate(part, 1):
                    found[spec.name] = msgspec.structs.replace(spec, array=array, element=number)
    return list(found.values())
