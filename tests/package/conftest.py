"""The package, and the clean system that it was installed into."""

import os
import shutil
from pathlib import Path

import pytest

from . import debian


@pytest.fixture(scope="session")
def package() -> Path:
    """``SCD_TEST_DEB``, which `make install-test` builds."""
    if reason := debian.why_not():
        pytest.skip(reason)
    if not (named := os.environ.get("SCD_TEST_DEB")):
        pytest.skip("SCD_TEST_DEB names no package: make install-test")
    return Path(named)


@pytest.fixture(scope="session")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> debian.Tree:
    """Where it was installed as an administrator would: by apt, with what it depends on."""
    made = debian.Tree(tmp_path_factory.mktemp("clean") / "tree").make()
    shutil.copy(package, made.place / "root" / "scd.deb")
    made.run("apt-get", "update", "-qq")
    made.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/root/scd.deb")
    made.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "procps")  # for the tests
    return made
