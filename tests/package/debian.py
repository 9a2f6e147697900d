"""A clean system of the distribution that runs the tests, in a directory; and packages for it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

_RELEASE = Path("/etc/os-release")
_SOURCES = (
    Path("/etc/apt/sources.list.d/debian.sources"),
    Path("/etc/apt/sources.list.d/ubuntu.sources"),
    Path("/etc/apt/sources.list"),
)
# Of this machine's apt: how it reaches its archive, and what it takes from there.
_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
_ENTER = """
set -e
mount -t proc proc "$TREE/proc"
mount -t tmpfs none "$TREE/run"
for node in null zero full random urandom; do touch "$TREE/dev/$node"; mount --bind "/dev/$node" "$TREE/dev/$node"; done
cp --dereference /etc/resolv.conf "$TREE/etc/resolv.conf"
exec chroot "$TREE" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
"""
_SITE = "usr/lib/scd/lib/python3/site-packages/scd"


class Tree:
    """The smallest Debian that has apt, as this machine's apt would fetch it."""

    def __init__(self, place: Path):
        self.place = place

    def make(self) -> "Tree":
        settings = self.place.with_suffix(".apt")
        settings.write_text("".join(f"{line}\n" for line in _dump() if line.startswith(_SETTINGS)))
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", "--format=directory", f"--aptopt={settings}", _codename(),
             str(self.place), str(_sources())],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def run(self, *argv: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A command of root's in it, by chroot."""
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, "sh", *argv], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TREE": str(self.place)},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done


def later(package: Path, version: str, place: Path) -> Path:
    """A package of scd as a later version: with a migration more, and a line more in the sample configuration."""
    place.mkdir()
    unpacked = place / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(unpacked)], check=True)
    _replace(unpacked / "DEBIAN" / "control", r"^Version: .*$", f"Version: {version}")
    _replace(unpacked / _SITE / "__init__.py", r'^__version__ = ".*"$', f'__version__ = "{version}"')
    _replace(unpacked / "etc/scd/scd.toml", r"\Z", "\n# What is new.\n#key = true\n")
    migrations = unpacked / _SITE / "store" / "migrations"
    (migrations / f"{newest(migrations) + 1:04}_later.sql").write_text("CREATE TABLE later (hint TEXT) STRICT;\n")
    made = place / f"scd_{version}.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(unpacked), str(made)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    shutil.rmtree(unpacked)
    return made


def newest(migrations: Path) -> int:
    """The number of the newest schema."""
    return max(int(file.name[:4]) for file in migrations.glob("*.sql"))


def why_not() -> str:
    """Why no clean system can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "only root can make a system in a directory"
    if missing := [name for name in ("mmdebstrap", "dpkg-deb", "unshare") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    if not any(file.exists() for file in _SOURCES):
        return "this machine's apt has no sources"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no chroot can be entered here: {done.stderr.strip()}" if done.returncode else ""


def _dump() -> list[str]:
    return subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()


def _codename() -> str:
    (name,) = re.findall(r"^VERSION_CODENAME=(\w+)$", _RELEASE.read_text(), re.MULTILINE)
    return str(name)


def _sources() -> Path:
    return next(file for file in _SOURCES if file.exists())


def _replace(file: Path, pattern: str, text: str) -> None:
    changed, times = re.subn(pattern, text, file.read_text(), count=1, flags=re.MULTILINE)
    assert times == 1, f"{file} has no {pattern}"
    file.write_text(changed)
