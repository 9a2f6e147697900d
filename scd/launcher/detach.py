"""How a shim takes leave of whoever started it. Standard library only."""

import os
import signal
import sys

from ..procfs import become_subreaper


def detach() -> None:
    """Go on as a child with a session of its own, which keeps the orphans of its job and is ended by no signal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Not SIG_IGN: the runner would inherit that.
        signal.signal(number, lambda *_: None)


def announce() -> None:
    """Print the pid for the starter, who reads this line and end of file, or end of file alone if we died."""
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
