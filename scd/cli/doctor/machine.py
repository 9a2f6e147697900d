"""The machine itself: its clock, and what it can limit."""

import ctypes
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding, good, note

_UNSYNCHRONISED, _INSERT, _DELETE = 0x40, 0x10, 0x20
_STATUS_AT = 40  # in struct timex, where long has 64 bits


def check_clock() -> Iterator[Finding]:
    """What the kernel knows of it: whoever keeps it right, chrony or timesyncd, tells the kernel."""
    status = _clock_status()
    if status is None:
        yield note("clock", "Whether something keeps the clock right cannot be known here.")
    elif status & _UNSYNCHRONISED:
        yield note("clock", "Nothing keeps the clock right: retention and limits by time go by it.",
                   "apt install chrony (or: timedatectl set-ntp true)")  # fmt: skip
    else:
        yield good("clock", f"The clock is kept right; it is {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}.")
    if status is not None and status & (_INSERT | _DELETE):
        yield note("clock", "A leap second comes at the end of this day.")


def check_cgroups() -> Iterator[Finding]:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    if controllers.exists():
        found = controllers.read_text().split()
        yield good("cgroups", f"Version 2, with {', '.join(found) or 'no controllers'}.")
    else:
        yield note("cgroups", "There is no unified hierarchy (version 2) at /sys/fs/cgroup.",
                   "boot with systemd.unified_cgroup_hierarchy=1")  # fmt: skip


def check_links() -> Iterator[Finding]:
    """What keeps one account from giving another's file a name of its own: a wall between accounts."""
    place = Path("/proc/sys/fs/protected_hardlinks")
    if place.exists() and place.read_text().strip() == "0":
        yield note("links", "The kernel lets accounts link to files of others.", "sysctl -w fs.protected_hardlinks=1")


def _clock_status() -> int | None:
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(1024)  # modes 0: only read
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    return int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder)
