"""Who reads Slurm's queue: squeue, or pyslurm where it fits (``slurm_pyslurm``). Both block, and tell the same."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..errors import ScdError
from ..slurm_queue import QueueRow, ask_queue

Queue = Mapping[str, Sequence[QueueRow]]  # what has a name of ours


class NoAnswer(ScdError):
    """Slurm does not answer."""


class Reader(Protocol):
    def read(self) -> Queue:
        """All that Slurm has with names of ours, in one look. Raises NoAnswer: then nothing is known."""

    def close(self) -> None:
        """Leave nothing behind. A ``read`` that goes on in another thread raises."""


class Squeue:
    """Slurm's own command: there wherever Slurm is."""

    def __init__(self, env: Mapping[str, str]):
        self._env = env

    def read(self) -> Queue:
        found, complaint = ask_queue(self._env)
        if found is None:
            raise NoAnswer(complaint)
        return found

    def close(self) -> None:
        """Each of its commands ends at its deadline."""
