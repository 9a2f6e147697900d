"""Addresses to listen on, as they are written in scd.toml."""

import ipaddress


def split_address(address: str) -> tuple[str, int]:
    """``("127.0.0.1", 8080)`` of ``127.0.0.1:8080`` or ``[::1]:8080``. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"not an address: {address!r} (write it as 127.0.0.1:8080, [::1]:8080 or unix:/path)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """A name may begin with ``127.`` too, and lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
