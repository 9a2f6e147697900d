"""A PAM service with people of its own, all of whom have one password."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "a secret; with ünicode"
_PWDFILE = [*Path("/lib").glob("*/security/pam_pwdfile.so"), *Path("/usr/lib").glob("*/security/pam_pwdfile.so")]


def why_no_pam() -> str:
    """Why no service can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "a PAM service can be made by root alone"
    return "" if _PWDFILE else "libpam-pwdfile is not installed"


@contextlib.contextmanager
def pam_service(passwords: Path, *names: str) -> Iterator[str]:
    """Its name. Of ``names``, which it keeps in the file ``passwords``, "expired" is refused by its account line."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True
    ).stdout.strip()
    passwords.write_text("".join(f"{name}:{hashed}\n" for name in names))
    name = f"scd-test-{secrets.token_hex(4)}"
    file = Path("/etc/pam.d", name)
    file.write_text(
        f"auth required pam_pwdfile.so pwdfile={passwords}\naccount required pam_succeed_if.so quiet user != expired\n"
    )
    try:
        yield name
    finally:
        file.unlink()
