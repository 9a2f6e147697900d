"""The password scheme: argon2 hashes in the configuration."""

import secrets
from collections.abc import Iterable

import argon2

_WRONG = (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, UnicodeEncodeError)


class PasswordHash:
    lasting = True

    def __init__(self, stamp: str):
        self.stamp = stamp
        self._hasher = argon2.PasswordHasher()

    def matches(self, key: str) -> bool:
        try:
            return self._hasher.verify(self.stamp, key)
        except _WRONG:
            return False


def nobodys(others: Iterable[str]) -> PasswordHash:
    """A hash of no known password, as costly as the costliest of ``others``: to be checked where there is no hash."""
    found = []
    for text in others:
        try:
            found.append(argon2.extract_parameters(text))
        except argon2.exceptions.InvalidHashError:  # lets nobody in
            continue
    costliest = max(found, key=lambda known: known.memory_cost * known.time_cost, default=None)
    hasher = argon2.PasswordHasher()
    if costliest is not None:
        hasher = argon2.PasswordHasher(costliest.time_cost, costliest.memory_cost, costliest.parallelism)
    return PasswordHash(hasher.hash(secrets.token_hex(16)))
