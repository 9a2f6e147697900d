"""Files in the age format, encrypted to an SSH key: https://age-encryption.org/v1. pyrage does the work.

A sealed file has the name of the plain one and ``.age`` behind it. Everything here blocks, streams, and needs little
memory however large a file is.
"""

import contextlib
import importlib
import io
import os
import threading
from pathlib import Path
from typing import IO, Any

from .durable import fsync, open_plain, replace
from .errors import ConfigError, Forbidden, ScdError

pyrage: Any = None
with contextlib.suppress(ImportError):  # an extra; _require says so where it is needed
    pyrage = importlib.import_module("pyrage")

DECRYPTION_ERRORS: tuple[type[Exception], ...] = (pyrage.DecryptError, pyrage.IdentityError) if pyrage else ()

SUFFIX = ".age"
_BUFFER = 2**20
_MOST_HEADER = 2**16
_NONCE, _TAG, _CHUNK = 16, 16, 2**16


class WrongKey(Forbidden):
    """These files are encrypted to another key than the one that was sent."""


class Damaged(ScdError):
    """These files are cut off, or damaged, on the server's disk."""


def sealed(path: Path) -> Path:
    """The name of a file once it is encrypted."""
    return path.with_name(path.name + SUFFIX)


def encrypt_bytes(data: bytes, public_key: str) -> bytes:
    """Raises ValueError for a key that cannot be used, ConfigError if pyrage is missing."""
    recipient = _recipient(public_key)
    return bytes(pyrage.encrypt(data, [recipient]))


def decrypt_bytes(data: bytes, private_key: bytes) -> bytes:
    """Raises one of DECRYPTION_ERRORS."""
    return bytes(pyrage.decrypt(data, [identity(private_key)]))


def identity(private_key: bytes) -> Any:
    """What pyrage decrypts with. Raises one of DECRYPTION_ERRORS, ConfigError if pyrage is missing."""
    return _require().ssh.Identity.from_buffer(private_key)


def seal(path: Path, public_key: str) -> None:
    """Encrypt a file, durably, and remove the plain one. Killed at any moment it leaves one of them whole. OSError."""
    recipient, aside = _recipient(public_key), path.with_name(f".{path.name}{SUFFIX}")
    aside.unlink(missing_ok=True)
    if not sealed(path).exists():
        with open(open_plain(path), "rb", _BUFFER) as source, open(aside, "xb", _BUFFER) as target:
            pyrage.encrypt_io(source, target, [recipient])
        replace(aside, sealed(path))
    path.unlink()
    fsync(path.parent)


def open_either(path: Path, private_key: bytes | None) -> IO[bytes]:
    """A file to read, whether it is sealed or not. ``size_of`` knows its size.

    Raises FileNotFoundError, WrongKey if it is sealed to another key or ``private_key`` is None, and Damaged if its
    beginning is not whole.
    """
    with contextlib.suppress(FileNotFoundError):  # small buffers: there are as many of them as slow readers
        return open(open_plain(path), "rb")
    return io.BufferedReader(_Decrypted(open_plain(sealed(path)), private_key), _CHUNK)


def plain_size(path: Path) -> int:
    """Bytes of the plain content of a file, whether it is sealed or not; nothing is decrypted.

    Of a file that was cut off they are too few. Raises OSError: FileNotFoundError, or for one that is damaged.
    """
    with contextlib.suppress(FileNotFoundError), open(open_plain(path), "rb") as plain:
        return os.fstat(plain.fileno()).st_size
    with open(open_plain(sealed(path)), "rb") as source:
        return _plain_size(source)


def size_of(file: IO[bytes]) -> int:
    """Bytes of the plain content of what ``open_either`` opened."""
    raw = getattr(file, "raw", None)
    return raw.size if isinstance(raw, _Decrypted) else os.fstat(file.fileno()).st_size


class _Decrypted(io.RawIOBase):
    """What a thread decrypts into a pipe, as far as somebody reads it. Closing ends the thread, too."""

    def __init__(self, fd: int, private_key: bytes | None):
        """``fd`` is closed in any case. Raises WrongKey, Damaged, ConfigError, OSError."""
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open(fd, "rb", _BUFFER))
            if private_key is None:
                raise WrongKey("These files are encrypted to a key, and none was sent.")
            try:
                own = identity(private_key)
            except DECRYPTION_ERRORS:
                raise WrongKey from None
            try:
                self.size = _plain_size(source)
            except OSError as error:
                if error.errno is not None:  # the disk's trouble, not the file's
                    raise
                raise Damaged from error
            stack.pop_all()
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._pipe, end = os.pipe()
        self._thread = threading.Thread(target=self._decrypt, args=(source, end, own), daemon=True)
        self._thread.start()
        self._head = os.read(self._pipe, _CHUNK)
        if not self._head and (failure := self._failure()) is not None:
            self.close()
            # Errors of its own kind are about the header, which says whose key it is. Behind it the key was right.
            raise WrongKey if isinstance(failure, DECRYPTION_ERRORS) else Damaged

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        """Raises OSError if the file turns out to be damaged."""
        with self._lock:  # a descriptor that is closed meanwhile may be another's at once
            if self.closed:
                raise OSError("closed")
            data, self._head = self._head[: len(target)], self._head[len(target) :]
            if not data and not (data := os.read(self._pipe, len(target))) and (failure := self._failure()) is not None:
                raise OSError(f"a sealed file is damaged: {failure}")
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                os.close(self._pipe)
                super().close()

    def _failure(self) -> Exception | None:
        self._thread.join()
        return self._error

    def _decrypt(self, source: IO[bytes], end: int, own: Any) -> None:
        try:
            with source, open(end, "wb", 0) as target:
                pyrage.decrypt_io(source, target, [own])
        except BrokenPipeError:  # nobody reads any more
            return
        except Exception as error:
            self._error = error


def _plain_size(source: IO[bytes]) -> int:
    """From the sizes of the file and of its header; the source stands at its beginning again. Raises OSError."""
    header = source.read(_MOST_HEADER)
    mac = header.find(b"\n--- ")
    end = header.find(b"\n", mac + 1) + 1
    if mac < 0 or not end:
        raise OSError("a sealed file is damaged: it has no header")
    source.seek(0)
    payload = os.fstat(source.fileno()).st_size - end - _NONCE
    if payload < _TAG:  # that of the last chunk, which may be empty
        raise OSError("a sealed file is damaged: it ends with its header")
    chunks = -(-payload // (_CHUNK + _TAG))
    return payload - chunks * _TAG


def _recipient(public_key: str) -> Any:
    """Raises ValueError."""
    found = _require()
    try:
        return found.ssh.Recipient.from_str(public_key)
    except found.RecipientError as error:
        raise ValueError(str(error)) from None


def _require() -> Any:
    if pyrage is None:
        raise ConfigError("keys of users need pyrage, which is not installed here: pip install 'scd[keys]'")
    return pyrage
