"""The account that scd runs as."""

import os
import pwd
from collections.abc import Iterator

from ...config import Config
from .finding import Finding, bad, good, note


def account_of(config: Config) -> pwd.struct_passwd | None:
    """None if it does not exist. A user's own daemon runs as that user."""
    try:
        if os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid())
        return pwd.getpwnam(config.server.user or "scd")
    except KeyError:
        return None


def check_account(config: Config) -> Iterator[Finding]:
    wanted, found = config.server.user or "scd", account_of(config)
    if found is None:
        yield bad("account", f"There is no account {wanted}, which scd runs as.",
                  f"systemd-sysusers scd.conf (or: useradd --system --home-dir /var/lib/scd {wanted})")  # fmt: skip
    elif found.pw_uid == 0:
        yield note("account", "scd and its jobs run as root.", "set [server] user to an account of its own")
    else:
        yield good("account", f"scd runs as {found.pw_name}.")
