"""Whether jobs run in a sandbox: tried for real when the daemon starts, and explained where it does not work."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..config import Config, Runtime
from ..errors import ConfigError
from ..runtimes import BOOT, Runtimes, ask, command, job_environment
from .sandbox import TEMPORARY, Sandbox, etc_files, is_below
from .seccomp import opened, options

log = logging.getLogger(__name__)

INSTEAD = 'To run jobs without a sandbox, for people whom you trust with scd\'s account, set [local] isolation = "none"'
_MISSING = "jobs run in a sandbox, and bwrap is not installed. Install it: apt install bubblewrap"
_APPARMOR = (
    "AppArmor keeps bwrap from making user namespaces, as Ubuntu does from 23.10 on. Let it: copy scd's "
    "etc/apparmor-bwrap to /etc/apparmor.d/bwrap, then: apparmor_parser -r /etc/apparmor.d/bwrap"
)
_UNKNOWN = (
    "Under systemd use scd's own unit: RestrictNamespaces=, or what hides parts of /proc, is in the way. Docker needs "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
# Switches that turn user namespaces off, and what turns them on.
_SWITCHES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces=15000"),
)
_APPARMOR_SWITCH = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


async def isolate(config: Config, runtimes: Runtimes, file: Path, place: Path) -> Mapping[str, Sandbox]:
    """The sandbox of each runtime by its name, tried with it; none if the configuration says so.

    ``file`` is the configuration's own; files of the sandboxes go to the directory ``place``. Raises ConfigError saying
    what to do.
    """
    if config.local.isolation == "none":
        log.warning("local.isolation is none: every job can do what scd's account can, and read its database")
        return {}
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ConfigError(f"local.isolation: {_MISSING}. {INSTEAD}")
    secret = [config.paths.state, config.paths.spool, str(file), *config.unix_sockets]
    _check_readonly(config, secret)
    etc = await asyncio.to_thread(_write_etc, place)
    sealed = await _can_seal(bwrap)
    found = {}
    for runtime, versions in runtimes:
        shown = (
            *config.local.readonly, *runtime.path, config.paths.cache, str(BOOT.parent),
            *_shown(versions.paths, secret),
        )  # fmt: skip
        found[runtime.name] = Sandbox(bwrap, etc, shown, config.local.network == "host", sealed)
    for runtime, _ in runtimes:
        await _try(found[runtime.name], runtime, place)
    return found


def _check_readonly(config: Config, secret: Sequence[str]) -> None:
    places = {"local.readonly": config.local.readonly, "paths.cache": (config.paths.cache,)}
    places |= {f"runtime {runtime.name!r}: path": runtime.path for runtime in config.runtime}
    for key, paths in places.items():
        for path in paths:
            for place in secret:
                if _uncovers(path, place) or _uncovers(config.paths.spool, path):
                    raise ConfigError(f"{key}: {path} would show {place} to every job")


def _shown(paths: Iterable[str], secret: Sequence[str]) -> Iterator[str]:
    """A runtime's directories, less those that hold a secret: a path of a .pth file may be a whole home directory."""
    for path in paths:
        if not any(_uncovers(path, place) for place in secret):
            yield path


def _uncovers(path: str, place: str) -> bool:
    return is_below(place, os.path.normpath(path)) or is_below(os.path.realpath(place), os.path.realpath(path))


def _write_etc(directory: Path) -> str:
    """Renamed into place: sandboxes that live keep the files that they have."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, text in etc_files(os.geteuid(), os.getegid()).items():
        aside = directory / f".{name}"
        aside.write_text(text)
        aside.chmod(0o444)
        aside.replace(directory / name)
    return str(directory)


async def _can_seal(bwrap: str) -> bool:
    _, out, err = await ask([bwrap, "--help"])
    return b"--disable-userns" in out + err


async def _try(sandbox: Sandbox, runtime: Runtime, place: Path) -> None:
    """Start the runtime in the sandbox as a job would."""
    with tempfile.TemporaryDirectory(prefix="trial-", dir=place) as work:
        probe = command(runtime, "scd.runner.probe", "--brief")
        try:
            with opened() as filters:
                argv = [*sandbox.argv(work, work), *options(filters), "--", *probe]
                code, out, err = await ask(argv, {**job_environment(runtime, work), "TMPDIR": TEMPORARY}, filters)
        except TimeoutError:
            raise ConfigError(f"runtime {runtime.name!r}: {runtime.python} does not answer in the sandbox") from None
    if code == 0 and out.strip():
        return
    lines = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    if lines[-1].startswith("bwrap: ") and "execvp" not in lines[-1]:
        raise ConfigError(f"local.isolation: no sandbox can be made here ({lines[-1]}). {_remedy()}. {INSTEAD}")
    raise ConfigError(
        f"runtime {runtime.name!r}: {runtime.python} does not run in the sandbox: {lines[-1]}. "
        f"Name the directories that it{' and its prolog' if runtime.prolog else ''} need in [local] readonly"
    )


def _remedy() -> str:
    if _switch(_APPARMOR_SWITCH) not in ("", "0"):
        return _APPARMOR
    for place, setting in _SWITCHES:
        if _switch(place) == "0":
            return f"User namespaces are turned off. Turn them on: sysctl -w {setting} (and a line in /etc/sysctl.d)"
    return _UNKNOWN


def _switch(place: str) -> str:
    try:
        return Path(place).read_text().strip()
    except OSError:
        return ""
