"""The front of all schemes: who sends these credentials?

The client sends them with every request, so what was verified is remembered for some minutes after its last use, as a
keyed digest that is worth nothing outside this process. Whatever is not right gets one answer after one check of an
argon2 hash, whether the user has another password, a key, or does not exist.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ..config import Config
from ..errors import Busy, ConfigError, ScdError, TooManyFailures, Unauthorized
from .base import Credential, Identity
from .directory import Directory, directory_of
from .keys import PublicKey, refuse_unusable
from .passwords import PasswordHash, nobodys
from .throttle import Throttle

log = logging.getLogger(__name__)

_REMEMBER = 300.0
_AT_ONCE = 2  # argon2 takes 64 MiB each
_MOST_WAITING = 200
_PATIENCE = 8.0  # seconds; the client gives an answer up after 10
_DIRECTORY_THREADS = 4
_DIRECTORY_DEADLINE = 8.0
# A directory takes its time, a fixed one for wrong passwords mostly: nobody learns from it who is in there.
_DIRECTORY_FLOOR = 3.0
_UNKNOWN = "(unknown)"


class Authenticator:
    """``use`` takes another configuration at any time: what changed in it is not remembered any more."""

    def __init__(self, config: Config):
        self._secret = secrets.token_bytes(32)
        self._verified: dict[bytes, float] = {}
        self._throttle = Throttle()
        self._hashing = ThreadPoolExecutor(_AT_ONCE + 1, "argon2")
        self._asking = ThreadPoolExecutor(_DIRECTORY_THREADS, "directory")
        # For each scheme one lane for those who were right before: an attack fills the other one.
        self._lanes = {
            (False, False): _Lane(_AT_ONCE), (False, True): _Lane(1),
            (True, False): _Lane(_DIRECTORY_THREADS - 1), (True, True): _Lane(1),
        }  # fmt: skip
        self.use(config)

    def use(self, config: Config) -> None:
        """All of it or nothing: raises ConfigError for a key that cannot be used, a library that is missing."""
        if config.slurm is not None and any(user.public_key for user in config.users.values()):
            raise ConfigError(
                "[slurm] cannot be used together with keys of users: what a compute node that was given up writes late "
                "would stay plain in the spool. Take out [slurm], or public_key of all [users.NAME]"
            )
        credentials: dict[str, Credential] = {}
        for name, user in config.users.items():
            if user.public_key:
                credentials[name] = PublicKey(name, user.public_key)
            elif user.password_hash:
                credentials[name] = PasswordHash(user.password_hash)
        directory = directory_of(config.auth)
        nobody = nobodys(user.password_hash for user in config.users.values() if user.password_hash)
        self._credentials: Mapping[str, Credential] = credentials
        self._directory: Directory | None = directory
        self._nobody = nobody
        self._required = config.auth_required

    async def authenticate(self, username: str | None, key: str | None, address: str = "") -> Identity:
        """Raises Unauthorized; TooManyFailures and Busy, which decide nothing."""
        if not self._credentials and self._directory is None:
            return Identity("")
        if not username or not key:
            if self._required or username or key:
                raise Unauthorized(
                    "This server needs a user name and a password (set them with: sc-remote -configure)."
                )
            return Identity("")
        credential = self._credentials.get(username)
        if credential is None and self._directory is not None:
            credential = self._directory.credential(username)
        digest = self._digest(username, key, credential.stamp if credential else "")
        now = time.monotonic()
        if self._verified.get(digest, 0.0) > now:
            if credential is not None and credential.lasting:
                self._verified[digest] = now + _REMEMBER
        else:
            refuse_unusable(key)
            await self._verify(username, key, address, credential)
            self._remember(digest)
        if isinstance(credential, PublicKey):
            return Identity(username, credential.text, key)
        return Identity(username)

    async def _verify(self, username: str, key: str, address: str, credential: Credential | None) -> None:
        """Raises Unauthorized for what is not right."""
        try:
            wait = self._throttle.admit(username, address)
        except TooManyFailures:
            if self._throttle.shall_tell(address):
                log.warning(
                    "too many failed logins: address=%s user=%s", address or "-", self._loggable(username, address)
                )
            raise
        await asyncio.sleep(wait)
        begun = time.monotonic()
        slow = credential is not None and not credential.lasting
        try:
            async with self._lanes[slow, self._throttle.is_known(username, address)].turn():
                good = await self._check(key, credential)
        except (ScdError, asyncio.CancelledError):
            self._throttle.take_back(username, address)
            raise
        if good:
            self._throttle.succeeded(username, address)
            return
        log.warning("login failed: address=%s user=%s", address or "-", self._loggable(username, address))
        if self._directory is not None:
            await asyncio.sleep(begun + _DIRECTORY_FLOOR - time.monotonic())
        raise Unauthorized

    def _loggable(self, username: str, address: str) -> str:
        """Not what nobody is called: people type their passwords there, too."""
        known = username in self._credentials or self._throttle.is_known(username, address)
        return username if known else _UNKNOWN

    async def _check(self, key: str, credential: Credential | None) -> bool:
        """One hash for everybody, and beside it whatever else there is to check."""
        loop = asyncio.get_running_loop()
        if isinstance(credential, PasswordHash):
            return await loop.run_in_executor(self._hashing, credential.matches, key)
        nothing = loop.run_in_executor(self._hashing, self._nobody.matches, key)
        if credential is None:
            await nothing
            return False
        threads = self._hashing if credential.lasting else self._asking
        checks = asyncio.gather(loop.run_in_executor(threads, credential.matches, key), nothing)
        try:
            async with asyncio.timeout(_DIRECTORY_DEADLINE):
                good, _ = await checks
        except TimeoutError:
            raise Busy("The directory of users does not answer. Try again.") from None
        return good

    def _digest(self, username: str, key: str, stamp: str) -> bytes:
        # The lengths keep apart what two names and keys would make one text of.
        triple = f"{len(username)}:{username}{len(stamp)}:{stamp}{key}".encode(errors="surrogatepass")
        return hmac.digest(self._secret, triple, hashlib.sha256)

    def _remember(self, digest: bytes) -> None:
        now = time.monotonic()
        self._verified = {known: until for known, until in self._verified.items() if until > now}
        self._verified[digest] = now + _REMEMBER


class _Lane:
    """A few checks at once; others wait, for some seconds and not in any number."""

    def __init__(self, at_once: int):
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        if self._waiting >= _MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._slots.acquire()
        except TimeoutError:
            raise Busy from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
