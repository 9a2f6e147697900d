"""What the Debian package is made from fits what it is made of."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from scd import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned() -> dict[str, str]:
    """Each package's version, by its name in small letters."""
    text = (ROOT / "debian" / "requirements.txt").read_text()
    return {name.lower(): version for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE)}


def test_the_packages_that_it_holds_are_those_that_scd_needs() -> None:
    extras = PROJECT["optional-dependencies"]
    versions = pinned()
    for wanted in map(Requirement, (*PROJECT["dependencies"], *extras["keys"], *extras["pam"])):
        assert versions.get(wanted.name.lower(), "0") in wanted.specifier, (
            f"debian/requirements.txt does not fit {wanted}: make deb-requirements"
        )


def test_each_has_a_digest() -> None:
    text = (ROOT / "debian" / "requirements.txt").read_text()
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    without = [entry for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
    assert without == []


def test_its_version_is_scds() -> None:
    first = (ROOT / "debian" / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"scd ({__version__}) "), "debian/changelog is of another version"


def test_the_pythons_that_it_is_made_for_are_those_that_it_may_be_installed_with() -> None:
    (listed,) = re.findall(r"^PYTHONS := (.*)$", (ROOT / "debian" / "rules").read_text(), re.MULTILINE)
    minors = [int(version.removeprefix("3.")) for version in listed.split()]
    assert minors == list(range(minors[0], minors[-1] + 1))
    control = (ROOT / "debian" / "control").read_text()
    assert f"python3 (>= 3.{minors[0]}), python3 (<< 3.{minors[-1] + 1}~)" in control
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"
