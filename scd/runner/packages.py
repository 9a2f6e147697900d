"""Packages that a job needs and the site's cache lacks: said at once, and with the command that adds them.

A job cannot write the cache. SiliconCompiler then takes any package for fetched, and looks for it three times, some
seconds apart; what it says in the end names a file, and not the package.
"""

import os
import re
import shlex
from typing import Any

_USERINFO = re.compile(r"//[^/@]*@")


def watch(cache: str) -> list[str]:
    """From now on, what is missing is added to the list that this returns: as arguments of ``scdctl cache add``."""
    from siliconcompiler.package import RemoteResolver

    missing: list[str] = []
    if os.access(cache, os.W_OK):  # no sandbox: the job fetches what it needs
        return missing
    settled = _settled()

    def resolve(self: Any) -> str:
        path = f"{self.cache_dir}/{self.cache_name}"
        if os.path.exists(path):
            return path
        arguments = shlex.join([self.name, _USERINFO.sub("//", self.source), self.reference])
        if arguments not in missing:
            missing.append(arguments)
        raise settled(f"package {self.name} is not in the cache of this server (scdctl cache add {arguments})")

    RemoteResolver.resolve = resolve
    return missing


def explain(missing: list[str]) -> str:
    """For the user, and for the administrator whom he asks. Empty if nothing is missing."""
    if not missing:
        return ""
    packages = "\n".join(f"scdctl cache add {arguments}" for arguments in missing)
    return f"This server's package cache lacks what the job needs. Its administrator adds it with:\n{packages}"


def _settled() -> type[Exception]:
    """An error that SiliconCompiler does not wait after, to try again."""
    try:
        from siliconcompiler.package.cache import DataSourceUnavailableError
    except ImportError:  # before 0.38 it tried once
        return FileNotFoundError
    found: type[Exception] = DataSourceUnavailableError
    return found
