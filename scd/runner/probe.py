"""What a runtime has: ``python -I boot.py scd.runner.probe`` prints it as one JSON object, ``scd.runtimes.Versions``.

With ``--brief`` only that it is there: asked again inside a sandbox.
"""

import json
import os
import sys


def main() -> None:
    try:
        import siliconcompiler
        from siliconcompiler.schema import __version__ as schema_version
    except ImportError as error:
        sys.exit(f"siliconcompiler cannot be imported: {error}")
    versions = {"sc": siliconcompiler.__version__, "sc_schema": schema_version}
    more = {} if "--brief" in sys.argv else {"packages": _packages(), "paths": _paths()}
    print(json.dumps({**versions, **more}))


def _packages() -> list[str]:
    """As SiliconCompiler records them in each job: asked once here, it need not be asked again in each."""
    try:
        from pip._internal.operations.freeze import freeze
    except Exception:  # pip's own module code; the records then lack the packages, as they do without pip
        return []
    return list(freeze())


def _paths() -> list[str]:
    """A virtual environment, the Python that it was made from, and what .pth files name besides."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path}
    link = sys.executable
    while os.path.islink(link):  # from the environment's program to the real one, each step must be seen
        link = os.path.join(os.path.dirname(link), os.readlink(link))
        found.add(os.path.dirname(link))
    return sorted(path for path in found if os.path.isabs(path) and os.path.exists(path))
