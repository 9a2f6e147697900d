"""Start one module of scd under any Python, without putting the daemon's packages on its path.

``python -I boot.py scd.runner.serve ARG...``: the runner lives in the site's SiliconCompiler environment, where scd
is not installed, and must see nothing of the daemon's. Standard library only.
"""

import importlib
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    package = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "scd", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scd"] = module
    spec.loader.exec_module(module)
    name = sys.argv.pop(1)
    importlib.import_module(name).main()


if __name__ == "__main__":
    main()
