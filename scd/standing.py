"""Where an unfinished job stands in line, and why it and nodes of it wait: in words for its user. Pure."""

from .model import PREPARE, NodeKey


class Standing:
    def __init__(self) -> None:
        self.why = ""  # why those of its nodes do not start that could
        self.lacking: dict[NodeKey, str] = {}  # and what is said of single ones
        self._position = 0  # in the queue, from 1
        self._waiting = ""  # why nothing of it starts
        self._note = ""  # why nodes do not run that are in a queue elsewhere

    def take(self, position: int, why: str, lacking: dict[NodeKey, str], *, stands: bool) -> bool:
        """Whether that is news. ``stands``: nothing of the job runs, so that its user is told ``why``."""
        before = self._position, self.why, self.lacking, self._waiting
        self._position, self.why, self.lacking, self._waiting = now = position, why, lacking, why if stands else ""
        return now != before

    def note(self, elsewhere: dict[NodeKey, str]) -> bool:
        """Whether it is news why nodes do not run that are in a queue elsewhere; a preparation may be among them."""
        before, self._note = self._note, _in_words(elsewhere)
        return self._note != before

    @property
    def running(self) -> str:
        """Of a job that runs: why nodes of it wait."""
        return "; ".join(filter(None, (self._waiting, _in_words(self.lacking), self._note)))

    @property
    def preparing(self) -> str:
        return "preparing" + (f": {self._note}" if self._note else "")

    def queued(self, before: str) -> str:
        """``before``: why it is in the queue once more."""
        more = self._waiting or before
        return f"queued, position {self._position}" + (f" ({more})" if more else "")


def _in_words(reasons: dict[NodeKey, str]) -> str:
    """Each reason once, with the nodes that wait for it."""
    by_reason: dict[str, list[NodeKey]] = {}
    for key, reason in reasons.items():
        by_reason.setdefault(reason, []).append(key)
    return "; ".join(_named(keys) + reason for reason, keys in by_reason.items())


def _named(keys: list[NodeKey]) -> str:
    """``syn/0 and 3 more: ``, and nothing for a preparation."""
    if keys == [PREPARE]:
        return ""
    return f"{keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}: "
