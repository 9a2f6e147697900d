"""The key scheme: the user has a public SSH key, and the client sends the private one in base64.

They belong together if what was encrypted to the one can be decrypted with the other. Of RSA it is enough that the
private key has the factors of the public one's modulus, since nobody else knows them: to decrypt takes 25 ms with 4096
bits, in which pyrage lets nothing else of this process run. What a private key names as its public part is compared
first, so that no key of a stranger's making is computed with.
"""

import base64
import binascii
import hmac
import secrets
import struct
from typing import NamedTuple

from ..errors import ConfigError, Unauthorized
from ..sealed import DECRYPTION_ERRORS, decrypt_bytes, encrypt_bytes, identity

_MOST = 6144  # bytes of a private key; 4096 bits of RSA have 3,400
_OPENSSH = "OPENSSH PRIVATE KEY"
_PKCS1 = "RSA PRIVATE KEY"
_MAGIC = b"openssh-key-v1\0"
_WRAP = 70
_ED25519, _RSA = b"ssh-ed25519", b"ssh-rsa"
_ED25519_SIZE = 32
_CHECK_SIZE = 8  # of a number that stands twice before an OpenSSH key's secret
_MALFORMED: tuple[type[Exception], ...] = (ValueError, struct.error, IndexError)
_LEAST_BITS, _MOST_BITS = 2048, 4096


class PublicKey:
    lasting = True

    def __init__(self, user: str, text: str):
        """Raises ConfigError naming ``user``."""
        self.text = without_comment(text)
        self.stamp = self.text
        self._challenge = secrets.token_bytes(32)
        try:
            self._blob = base64.b64decode(self.text.split()[1], validate=True)
            _check_strength(self._blob)
            self._encrypted = encrypt_bytes(self._challenge, self.text)
        except _MALFORMED as error:
            raise ConfigError(f"users.{user}.public_key: cannot be used: {error}") from None

    def matches(self, key: str) -> bool:
        try:
            private = private_key(key)
            if not hmac.compare_digest(_public_blob(private), self._blob):
                return False
            if _kind(self._blob) == _RSA:
                identity(private)  # what files cannot be decrypted with lets nobody in
                return _is_secret_of(_rsa_numbers(private), self._blob)
            return hmac.compare_digest(decrypt_bytes(self._encrypted, private), self._challenge)
        except (*_MALFORMED, *DECRYPTION_ERRORS):
            return False


def without_comment(public_key: str) -> str:
    """A public key as it is compared and kept: its kind and its base64."""
    return " ".join(public_key.split()[:2])


def private_key(key: str) -> bytes:
    """What a client sent, as the text of a key file. Raises ValueError for what is no private key.

    It may be the base64 of the file, the file itself, or what stands between its first and its last line.
    """
    text = key.strip()
    if len(text) > 2 * _MOST:
        raise ValueError("too long")
    if text.startswith("-----BEGIN "):
        data = text.encode("ascii")
    else:
        data = base64.b64decode("".join(text.split()), validate=True)
        if data.startswith(_MAGIC):
            data = _armoured(data)
    if len(data) > _MOST or not data.startswith(b"-----BEGIN "):
        raise ValueError("no private key")
    return data.strip() + b"\n"


def refuse_unusable(key: str) -> None:
    """Raise Unauthorized, saying what to do, for a private key that nobody could use here, whoever sends it."""
    try:
        private = private_key(key)
        label, body = _opened(private)
    except ValueError:
        return
    encrypted = b"ENCRYPTED" in private
    if label == _OPENSSH and not encrypted:
        try:
            encrypted = _field(body, len(_MAGIC))[0] != b"none"
        except _MALFORMED:
            return
    if encrypted:
        raise Unauthorized(
            "This private key has a passphrase, so that the server cannot use it. Make a key for this purpose alone "
            "(ssh-keygen -t ed25519 -N ''), and give its public part to the administrator."
        )
    if label not in (_OPENSSH, _PKCS1):
        raise Unauthorized("This private key is in a form that is not read here. Rewrite it: ssh-keygen -p -f FILE")


def _armoured(data: bytes) -> bytes:
    body = base64.b64encode(data).decode()
    lines = (body[start : start + _WRAP] for start in range(0, len(body), _WRAP))
    return "\n".join([f"-----BEGIN {_OPENSSH}-----", *lines, f"-----END {_OPENSSH}-----"]).encode()


def _opened(private: bytes) -> tuple[str, bytes]:
    """What the first line says, and what is in between. Raises ValueError."""
    first, *lines = private.decode("ascii").split("\n")
    label = first.strip().removeprefix("-----BEGIN ").removesuffix("-----")
    body = "".join(line.strip() for line in lines if ":" not in line and not line.startswith("-----"))
    try:
        return label, base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _public_blob(private: bytes) -> bytes:
    """The public part as the private key names it, in the form of a public key's base64. Raises ValueError."""
    label, body = _opened(private)
    if label == _OPENSSH and body.startswith(_MAGIC):
        at = len(_MAGIC)
        for _ in range(3):  # the cipher, the derivation of its key, and its options
            _, at = _field(body, at)
        return _field(body, at + 4)[0]  # after the number of keys
    if label == _PKCS1:
        _, content, _ = _der(body, 0)
        _, _, at = _der(content, 0)  # the version
        _, modulus, at = _der(content, at)
        _, exponent, _ = _der(content, at)
        return b"".join(struct.pack(">I", len(part)) + part for part in (_RSA, exponent, modulus))
    raise ValueError("no private key")


class _RsaNumbers(NamedTuple):
    n: int
    e: int
    d: int
    p: int
    q: int


def _rsa_numbers(private: bytes) -> _RsaNumbers:
    """Of a private key whose public part is known to be an RSA one. Raises ValueError, struct.error, IndexError."""
    label, body = _opened(private)
    found = []
    if label == _PKCS1:
        _, content, _ = _der(body, 0)
        _, _, at = _der(content, 0)  # the version
        for _ in _RsaNumbers._fields:
            _, number, at = _der(content, at)
            found.append(int.from_bytes(number))
        return _RsaNumbers(*found)
    at = len(_MAGIC)
    for _ in range(3):  # as in _public_blob
        _, at = _field(body, at)
    _, at = _field(body, at + 4)
    secret, _ = _field(body, at)
    kind, at = _field(secret, _CHECK_SIZE)
    if kind != _RSA:
        raise ValueError("the secret is of another kind")
    for _ in range(6):
        number, at = _field(secret, at)
        found.append(int.from_bytes(number))
    n, e, d, _, p, q = found
    return _RsaNumbers(n, e, d, p, q)


def _is_secret_of(secret: _RsaNumbers, blob: bytes) -> bool:
    """Whether these are the factors of a public key's modulus, and its exponents' own counterpart."""
    _, at = _field(blob, 0)
    exponent, at = _field(blob, at)
    modulus, _ = _field(blob, at)
    n, e, d, p, q = secret
    if (n, e) != (int.from_bytes(modulus), int.from_bytes(exponent)):
        return False
    return 1 < p < n and p * q == n and (d * e - 1) % (p - 1) == 0 == (d * e - 1) % (q - 1)


def _kind(blob: bytes) -> bytes:
    return _field(blob, 0)[0]


def _field(data: bytes, at: int) -> tuple[bytes, int]:
    """A string of SSH's wire format, and where the next begins."""
    (size,) = struct.unpack_from(">I", data, at)
    end = at + 4 + size
    if end > len(data):
        raise ValueError("cut off")
    return data[at + 4 : end], end


def _der(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of a DER element. Raises ValueError, IndexError."""
    tag, size, at = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(data[at : at + count])
        at += count
    if at + size > len(data):
        raise ValueError("cut off")
    return tag, data[at : at + size], at + size


def _check_strength(blob: bytes) -> None:
    """Raises ValueError."""
    kind, at = _field(blob, 0)
    if kind == _ED25519:
        point, at = _field(blob, at)
        if len(point) != _ED25519_SIZE:
            raise ValueError("it is damaged")
    elif kind == _RSA:
        _, at = _field(blob, at)
        modulus, at = _field(blob, at)
        bits = int.from_bytes(modulus).bit_length()
        if not _LEAST_BITS <= bits <= _MOST_BITS:
            raise ValueError(f"RSA keys have {_LEAST_BITS} to {_MOST_BITS} bits, not {bits}")
    else:
        raise ValueError("it is neither an ssh-ed25519 nor an ssh-rsa key")
    if at != len(blob):
        raise ValueError("it is damaged")
