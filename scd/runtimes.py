"""The SiliconCompiler Pythons that are configured: what they have, and which manifest fits which."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.specifiers import SpecifierSet

from .config import Config, Runtime
from .errors import ConfigError

BOOT = Path(__file__).with_name("boot.py")
_DEADLINE = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The oldest schema whose manifests the newer SiliconCompiler loads and runs unchanged (0.37.12, tested).
OLDEST_SCHEMA = (0, 54)


def job_environment(runtime: Runtime, home: str) -> dict[str, str]:
    """All that a job sees of an environment, but for TMPDIR: whoever makes that directory adds it.

    What the daemon was started with, and may hold secrets, is no part of it.
    """
    path = ":".join((*runtime.path, PATH))
    return runtime.env | {"PATH": path, "HOME": home, "USER": "scd", "LOGNAME": "scd", "LANG": "C.UTF-8"}


def command(runtime: Runtime, module: str, *arguments: str) -> list[str]:
    """The argv that runs one of scd's modules under a runtime's Python, after its prolog."""
    argv = [runtime.python, "-I", str(BOOT), module, *arguments]
    if not runtime.prolog:
        return argv
    return ["/bin/bash", "--noprofile", "--norc", "-e", "-c", f'{runtime.prolog}\nexec "$@"', "prolog", *argv]


class Versions(msgspec.Struct, frozen=True):
    """SiliconCompiler's version, that of its manifests' schema, and the Python packages as ``pip freeze`` has them.

    ``paths`` are where this Python lies and where it imports from.
    """

    sc: str
    sc_schema: str
    packages: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


class Runtimes:
    """In the order of the configuration: the first that fits is taken."""

    def __init__(self, found: dict[str, tuple[Runtime, Versions]]):
        self._found = found

    @classmethod
    async def probe(cls, config: Config) -> "Runtimes":
        """Ask each configured Python. Raises ConfigError naming the one that has no SiliconCompiler."""
        # All have ended after this: the failure of one leaves none of the others behind.
        answers = await asyncio.gather(*(_probe(runtime) for runtime in config.runtime), return_exceptions=True)
        found = {}
        for runtime, answer in zip(config.runtime, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found[runtime.name] = (runtime, answer)
        return cls(found)

    @property
    def newest(self) -> Versions:
        return max((versions for _, versions in self._found.values()), key=lambda own: _numbers(own.sc_schema))

    def __iter__(self) -> Iterator[tuple[Runtime, Versions]]:
        return iter(self._found.values())

    def get(self, name: str) -> tuple[Runtime, Versions]:
        """A runtime by name. A job may name one that is no longer configured: then the first."""
        return self._found.get(name) or next(iter(self._found.values()))

    def choose(self, schema: str) -> str | None:
        """The name of the runtime for manifests of this schema version."""
        return next((name for name, (runtime, own) in self._found.items() if _takes(runtime, own, schema)), None)

    def refusal(self, schema: str) -> str:
        """Why no runtime takes this schema version, with all the versions."""
        offers = ", ".join(
            f"SiliconCompiler {own.sc} (schema {accepted(runtime, own)})" for runtime, own in self._found.values()
        )
        return (
            f"This job's manifest has schema version {schema}, and this server runs {offers}. "
            "Use a matching SiliconCompiler, or ask the administrator for a [[runtime]] that has yours."
        )


def accepted(runtime: Runtime, own: Versions) -> str:
    """The schema versions of manifests that a runtime takes, in words."""
    return runtime.accepts or f"{'.'.join(map(str, OLDEST_SCHEMA))} to {own.sc_schema}"


async def ask(
    argv: Sequence[str], env: Mapping[str, str] | None = None, fds: Sequence[int] = ()
) -> tuple[int | None, bytes, bytes]:
    """Run a program to its end: exit status, output, errors. Raises TimeoutError; then nothing of it is left."""
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=env, start_new_session=True, pass_fds=fds,
    ))  # fmt: skip
    try:
        process = await asyncio.shield(starting)  # asyncio itself would kill the program alone, not what it started
        out, err = await asyncio.wait_for(process.communicate(), _DEADLINE)
    finally:
        process = await starting
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
    return process.returncode, out, err


def _takes(runtime: Runtime, own: Versions, schema: str) -> bool:
    """Whether manifests of a schema version run there: what the site says, or what is known to work."""
    wanted, mine = _numbers(schema), _numbers(own.sc_schema)
    if runtime.accepts and wanted:
        return SpecifierSet(runtime.accepts).contains(".".join(map(str, wanted)), prereleases=True)
    return wanted[:1] == mine[:1] and OLDEST_SCHEMA <= wanted[:2] <= mine[:2]


async def _probe(runtime: Runtime) -> Versions:
    try:
        _, out, err = await ask(command(runtime, "scd.runner.probe"), job_environment(runtime, "/"))
    except TimeoutError:
        raise ConfigError(f"runtime {runtime.name!r}: {runtime.python} does not answer") from None
    try:
        return msgspec.json.decode(out.splitlines()[-1] if out.strip() else b"", type=Versions)
    except msgspec.DecodeError:
        reason = err.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"runtime {runtime.name!r}: {runtime.python}: {reason[-1] if reason else 'it printed no version'}. "
            f"Install SiliconCompiler there ({runtime.python} -m pip install siliconcompiler), "
            "or name another Python under [[runtime]]" + (", or mend its prolog" if runtime.prolog else "")
        ) from None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version)[:3])
