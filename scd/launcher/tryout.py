"""A batch job that only asks a runtime what it has, in its sandbox: for ``scdctl doctor``. Standard library only."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from ..durable import replace
from .seccomp import opened, options

_DEADLINE = 60.0
_MOST = 4000  # characters of what it says


def try_out(spec: dict[str, Any], record: Path) -> int:
    """Write down what the command of ``spec`` said, and where; its exit status. Raises OSError."""
    with opened() as filters:
        inside = [*spec["sandbox"], *options(filters), "--"] if spec["sandbox"] else []
        try:
            done = subprocess.run(
                [*inside, *spec["runner"]], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                env=spec["env"], cwd=spec["root"], pass_fds=filters if inside else [], timeout=_DEADLINE,
            )  # fmt: skip
            status, found, errors = done.returncode, done.stdout, done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            status, found, errors = 1, "", str(error)
    said = {"host": socket.gethostname(), "found": found[-_MOST:], "errors": errors[-_MOST:]}
    aside = record.with_name(f".{record.name}")
    aside.write_text(json.dumps(said))
    replace(aside, record)
    return status
