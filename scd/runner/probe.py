"""What a runtime has: ``python -I boot.py scd.runner.probe`` prints its versions and packages as one JSON object."""

import json
import sys


def main() -> None:
    try:
        import siliconcompiler
        from siliconcompiler.schema import __version__ as schema_version
    except ImportError as error:
        sys.exit(f"siliconcompiler cannot be imported: {error}")
    print(json.dumps({"sc": siliconcompiler.__version__, "sc_schema": schema_version, "packages": _packages()}))


def _packages() -> list[str]:
    """As SiliconCompiler records them in each job: asked once here, it need not be asked again in each."""
    try:
        from pip._internal.operations.freeze import freeze
    except Exception:  # pip's own module code; the records then lack the packages, as they do without pip
        return []
    return list(freeze())
