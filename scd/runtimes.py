"""The SiliconCompiler Pythons that are configured: what they have, and which manifest fits which."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from .config import Config, Runtime
from .errors import ConfigError

BOOT = Path(__file__).with_name("boot.py")
_DEADLINE = 60.0
# The oldest schema whose manifests the newer SiliconCompiler loads and runs unchanged (0.37.12, tested).
OLDEST_SCHEMA = (0, 54)


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
        wanted = _numbers(schema)
        for name, (_, versions) in self._found.items():
            own = _numbers(versions.sc_schema)
            if wanted[:1] == own[:1] and OLDEST_SCHEMA <= wanted[:2] <= own[:2]:
                return name
        return None

    def refusal(self, schema: str) -> str:
        """Why no runtime takes this schema version, with all the versions."""
        oldest = ".".join(map(str, OLDEST_SCHEMA))
        offers = ", ".join(
            f"SiliconCompiler {versions.sc} (schema {oldest} to {versions.sc_schema})"
            for _, versions in self._found.values()
        )
        return (
            f"This job's manifest has schema version {schema}, and this server runs {offers}. "
            "Use a matching SiliconCompiler, or ask the administrator for a [[runtime]] that has yours."
        )


async def ask(argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int | None, bytes, bytes]:
    """Run a program to its end: exit status, output, errors. Raises TimeoutError; then nothing of it is left."""
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=env, start_new_session=True,
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


async def _probe(runtime: Runtime) -> Versions:
    try:
        _, out, err = await ask([runtime.python, "-I", str(BOOT), "scd.runner.probe"])
    except TimeoutError:
        raise ConfigError(f"runtime {runtime.name!r}: {runtime.python} does not answer") from None
    try:
        return msgspec.json.decode(out.splitlines()[-1] if out.strip() else b"", type=Versions)
    except msgspec.DecodeError:
        reason = err.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"runtime {runtime.name!r}: {runtime.python}: {reason[-1] if reason else 'it printed no version'}. "
            f"Install SiliconCompiler there ({runtime.python} -m pip install siliconcompiler), "
            "or name another Python under [[runtime]]"
        ) from None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version)[:3])
