"""Escape probes: each one small function that tries one thing which a node must not be able to do.

``attempt`` runs them in a node, each in a process of its own, and says of each what it got or how it was refused;
``reading``, ``writing``, ``processes``, ``sockets`` and ``kernel`` hold them; ``bundle`` is what a job brings along.
They run in three shapes: in a sandbox, in a sandbox under the user's own account, and without any, where those marked
``bare`` must succeed: a probe that never works would say nothing.
"""

import base64
import io
import zipfile
from pathlib import Path

_HERE = Path(__file__).parent
_MAIN = "from probes import attempt, kernel, processes, reading, sockets, writing\nattempt.main()\n"
NAME = "probes.zip"


def bundle() -> str:
    """A shell command that writes the probes into the present directory as a program for Python."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        archive.writestr("probes/__init__.py", "")
        for path in sorted(_HERE.glob("[a-z]*.py")):
            archive.write(path, f"probes/{path.name}")
    text = base64.b64encode(packed.getvalue()).decode()
    return f"echo {text} | base64 -d >{NAME}"
