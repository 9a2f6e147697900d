"""How an account runs each runtime: asked and tried as that account, once for each start of ``scd-launcher``.

What comes out is kept by root, where the account cannot change it.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec

from ..config import Config
from ..errors import ScdError
from ..runtimes import Runtimes, Versions
from .accounts import Account, Refused, become
from .isolation import isolate
from .sandbox import Sandbox

_TRIALS, _ACCOUNTS = "trials", "accounts"


class Trial(msgspec.Struct, frozen=True):
    """By the runtimes' names."""

    versions: dict[str, Versions]
    sandboxes: dict[str, Sandbox]

    def runtimes(self, config: Config) -> Runtimes:
        return Runtimes({runtime.name: (runtime, self.versions[runtime.name]) for runtime in config.runtime})


_DECODER = msgspec.json.Decoder(Trial)  # made once: each child of the launcher reads one


class _Failure(msgspec.Struct, frozen=True, tag=True):
    error: str


class _Success(msgspec.Struct, frozen=True, tag=True):
    trial: Trial


def prepare(place: Path) -> None:
    """Make root's directories below ``place``, and forget what earlier launchers found."""
    for name in (_TRIALS, _ACCOUNTS):
        (place / name).mkdir(mode=0o711, exist_ok=True)
        (place / name).chmod(0o711)
    for path in (place / _TRIALS).iterdir():
        path.unlink()


def known(account: Account, config: Config, file: Path, place: Path) -> Trial:
    """The account's trial, made now if it is its first. Still root. Raises Refused with what does not work."""
    kept = place / _TRIALS / f"{account.name}.json"
    home = place / _ACCOUNTS / account.name
    with contextlib.suppress(FileNotFoundError):
        if home.stat().st_uid == account.uid:  # an account that was made anew may have another number
            return _DECODER.decode(kept.read_bytes())
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid == 0:
        os.chown(home, account.uid, account.gid)
    elif home.stat().st_uid != account.uid:
        raise Refused(f"{home} is another account's; remove it")
    outcome = msgspec.json.decode(_in_child(account, config, file, home) or b"{}", type=_Success | _Failure)
    if isinstance(outcome, _Failure):
        raise Refused(f"account {account.name}: {outcome.error}")
    aside = kept.with_suffix(f".{os.getpid()}")
    aside.write_bytes(msgspec.json.encode(outcome.trial))
    aside.rename(kept)
    return outcome.trial


def _in_child(account: Account, config: Config, file: Path, home: Path) -> bytes:
    """What a child of the account has to say."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            become(account)
            with open(write, "wb") as told:
                told.write(msgspec.json.encode(_run(config, file, home)))
        except BaseException as error:  # it must not go on as a copy of its parent
            print(f"scd-launcher: trial of {account.name}: {error!r}", file=sys.stderr, flush=True)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as telling:
        said = telling.read()
    os.waitpid(pid, 0)
    return said


def _run(config: Config, file: Path, home: Path) -> _Success | _Failure:
    async def run() -> _Success:
        runtimes = await Runtimes.probe(config)
        sandboxes = await isolate(config, runtimes, file, home)
        return _Success(Trial({runtime.name: versions for runtime, versions in runtimes}, dict(sandboxes)))

    try:
        return asyncio.run(run())
    except ScdError as error:
        return _Failure(error.message)
    except OSError as error:
        return _Failure(str(error))
