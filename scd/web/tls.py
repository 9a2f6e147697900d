"""scd's own certificate, for sites without a reverse proxy."""

import os
import ssl
from pathlib import Path

from ..config import Config
from ..errors import ConfigError

_TRIAL_STEPS = 10
_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a certificate may vouch for itself


class Expired(ConfigError):
    """The certificate is not valid at this time."""


def context(config: Config) -> ssl.SSLContext | None:
    """What TCP connections are encrypted with; None without a certificate. Raises ConfigError."""
    server = config.server
    if not server.tls_certificate:
        return None
    certificate = _readable("tls_certificate", server.tls_certificate)
    key = _readable("tls_key", server.tls_key)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2

    def refuse() -> str:  # OpenSSL would ask at the terminal
        raise ConfigError(
            f"server.tls_key: {key} is encrypted; scd needs it without a passphrase, readable for its account alone"
        )

    try:
        found.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        raise ConfigError(_explain(certificate, key, error)) from None
    return found


def try_out(config: Config) -> None:
    """Shake hands with oneself. Raises Expired, and ConfigError."""
    ours = context(config)
    if ours is None:
        return
    certificate = _readable("tls_certificate", config.server.tls_certificate)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # its names are the clients' affair
    client.verify_flags |= _PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(downward, upward), ours.wrap_bio(upward, downward, server_side=True)]
    for _ in range(_TRIAL_STEPS):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                raise Expired(f"server.tls_certificate: {certificate}: {error.verify_message}") from None
            except ssl.SSLError as error:
                raise ConfigError(f"server.tls_certificate: {certificate} does not work: {error.reason}") from None


def _readable(key: str, name: str) -> Path:
    """A name without a directory is one of systemd's credentials."""
    path = Path(name)
    if path.name == name:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise ConfigError(
                f"server.{key}: {name!r} has no directory, and systemd hands in no credentials (LoadCredential=)"
            )
        path = Path(directory) / name
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"server.{key}: {path} cannot be read: {error.strerror}") from None
    return path


def _explain(certificate: Path, key: Path, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"server.tls_key: {key} is not the key of {certificate}"
    return f"server.tls_certificate: {certificate} or its key {key} is no PEM file"
