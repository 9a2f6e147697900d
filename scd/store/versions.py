"""The versions of the database's schema: what the migration scripts lead to, as ``user_version`` counts them."""

import re
from importlib import resources
from importlib.resources.abc import Traversable


def migrations() -> list[tuple[int, Traversable]]:
    """The migration scripts with the version that each leads to."""
    scripts = resources.files(__package__).joinpath("migrations").iterdir()
    return sorted(
        (
            (int(script.name[:4]), script)
            for script in scripts
            if re.fullmatch(r"[0-9]{4}_[a-z0-9_]+\.sql", script.name)
        ),
        key=lambda item: item[0],
    )


def newest() -> int:
    return migrations()[-1][0]
