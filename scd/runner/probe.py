"""Which SiliconCompiler a runtime has: ``python -I boot.py scd.runner.probe`` prints one JSON object."""

import json
import sys


def main() -> None:
    try:
        import siliconcompiler
        from siliconcompiler.schema import __version__ as schema_version
    except ImportError as error:
        sys.exit(f"siliconcompiler cannot be imported: {error}")
    print(json.dumps({"sc": siliconcompiler.__version__, "sc_schema": schema_version}))
