"""``scdctl hash-password``: from standard input to an argon2 string for the configuration."""

import argparse
import getpass
import sys

import argon2

from ..errors import BadRequest


async def hash_password(_: argparse.Namespace) -> None:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise BadRequest("The two are not the same.")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise BadRequest("An empty password is none.")
    print(argon2.PasswordHasher().hash(password))
