"""``scdctl keygen``: a pair of keys for one user of scd and nothing else, made by ssh-keygen."""

import argparse
import asyncio
import subprocess
from pathlib import Path

from ..errors import BadRequest, ScdError
from .table import print_json

_WHAT_NEXT = """\
{file} is the private key, {file}.pub the public one.

For the administrator, in scd.toml:

    [users.NAME]
    public_key = "{public}"

For the user: sc-remote -configure asks for a password. It is the private key in one line, which this prints:

    base64 -w0 {file}

Keep the file: without it nobody can read the results of this user's jobs, the administrator neither."""


async def keygen(arguments: argparse.Namespace) -> None:
    public = await asyncio.to_thread(_make, arguments.file)
    if arguments.json:
        print_json({"version": 1, "file": str(arguments.file), "public_key": public})
    else:
        print(_WHAT_NEXT.format(file=arguments.file, public=public))


def _make(file: Path) -> str:
    """The public key of a new pair. Raises BadRequest, ScdError."""
    if file.exists() or _public(file).exists():
        raise BadRequest(f"{file} is there already, and is not overwritten: what is encrypted to it would be lost.")
    # Without a passphrase: the server could not use it otherwise. ssh-keygen makes the file for its owner alone.
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "scd", "-f", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ScdError("ssh-keygen is not installed here (Debian: apt-get install openssh-client).") from None
    if done.returncode != 0:
        raise ScdError(f"ssh-keygen: {(done.stderr or done.stdout).strip() or done.returncode}")
    return " ".join(_public(file).read_text().split()[:2])


def _public(file: Path) -> Path:
    return file.with_name(file.name + ".pub")
