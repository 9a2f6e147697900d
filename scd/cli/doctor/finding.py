"""What a check found."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    GOOD = "good"
    NOTE = "note"  # worth knowing, and nothing that must be mended
    BAD = "bad"


class Finding(msgspec.Struct, frozen=True):
    """``remedy`` is the command that mends it, or what to do; empty where there is nothing to mend."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def good(check: str, text: str) -> Finding:
    return Finding(check, Level.GOOD, text)


def note(check: str, text: str, remedy: str = "") -> Finding:
    return Finding(check, Level.NOTE, text, remedy)


def bad(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Level.BAD, text, remedy)
