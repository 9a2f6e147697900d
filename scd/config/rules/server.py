"""[server]: addresses, proxies, TLS and numbers."""

import ipaddress
import os
import re
from collections.abc import Iterator

from ..addresses import is_loopback, split_address
from ..sections import Config

_OPEN = (
    "is open to other machines, and nobody has to log in. "
    "Add [users.NAME] with a password_hash or a public_key (and [auth] required = true), or listen on 127.0.0.1 only"
)
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)+")


def addresses(config: Config) -> Iterator[tuple[str, str]]:
    for address in config.server.listen:
        if address.startswith("unix:"):
            if not address.removeprefix("unix:").startswith("/"):
                yield "server.listen", f"{address!r} needs an absolute path"
            continue
        try:
            host, _ = split_address(address)
        except ValueError as error:
            yield "server.listen", str(error)
        else:
            if not config.auth_required and not is_loopback(host):
                yield "server.listen", f"{address!r} {_OPEN}"


def proxies(config: Config) -> Iterator[tuple[str, str]]:
    server = config.server
    for entry in server.trusted_proxies:
        try:
            entry == "unix" or ipaddress.ip_network(entry)
        except ValueError:
            yield "server.trusted_proxies", f'{entry!r} is not an address, a network as 10.0.0.0/8, or "unix"'
    if server.trusted_proxies and not config.auth_required:
        yield "server.trusted_proxies", "other machines come by a proxy, and nobody has to log in: add [users.NAME]"
    if server.accel and not re.fullmatch(r"/([A-Za-z0-9_.-]+/)+", server.accel):
        yield "server.accel", f"{server.accel!r} is not a location as /scd-results/, with a slash at both ends"
    if server.accel and not server.trusted_proxies:
        yield "server.accel", "is for a proxy, and trusted_proxies names none"


def tls(config: Config) -> Iterator[tuple[str, str]]:
    server = config.server
    for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(server, other) and not getattr(server, key):
            yield f"server.{key}", f"is missing, and there is a {other}"


def values(config: Config) -> Iterator[tuple[str, str]]:
    if not 0 <= config.server.progress_interval <= 60:
        yield "server.progress_interval", "must be 0 to 60 seconds"
    if config.server.terms_file and not os.access(config.server.terms_file, os.R_OK):
        yield "server.terms_file", f"{config.server.terms_file} cannot be read"
    if config.server.root_path and not _ROOT_PATH.fullmatch(config.server.root_path):
        yield "server.root_path", f"{config.server.root_path!r} is not a path as /scd, without a slash at its end"
    for reader in config.server.metrics:
        try:
            ipaddress.ip_network(reader)
        except ValueError as error:
            yield "server.metrics", f"{error} (write it as 192.0.2.7 or 192.0.2.0/24)"


def at_least_one(config: Config) -> Iterator[tuple[str, str]]:
    for key in ("max_members", "max_ratio", "max_connections", "max_connections_per_address"):
        if getattr(config.server, key) < 1:
            yield f"server.{key}", "must be 1 or more"
