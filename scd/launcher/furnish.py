"""What a sandbox on a compute node shows of that node's own disk. Standard library only."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

# In the sandbox's arguments: directories of the node's own, known only there. The first is its /tmp.
TEMPORARY_MARK, ETC_MARK = "{temporary}", "{etc}"


def furnish(task: dict[str, Any], stack: contextlib.ExitStack) -> Path:
    """Make these directories, and name them in the sandbox's arguments; the job's /tmp."""
    own = Path(tempfile.mkdtemp(prefix="scd-"))
    stack.callback(shutil.rmtree, own, ignore_errors=True)
    temporary, etc = own / "tmp", own / "etc"
    for directory in (temporary, etc):
        directory.mkdir(mode=0o700)
    for name, text in task["etc"].items():
        (etc / name).write_text(text)
        (etc / name).chmod(0o444)
    spec = task["spec"]
    marks = {TEMPORARY_MARK: str(temporary), ETC_MARK: str(etc)}
    for mark, place in marks.items():
        spec["sandbox"] = [
            place + part.removeprefix(mark) if part.startswith(mark) else part for part in spec["sandbox"]
        ]
    return temporary
