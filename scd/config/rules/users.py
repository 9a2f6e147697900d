"""[users], [auth], and the Unix accounts of jobs."""

import os
import re
from collections.abc import Iterator

from ..sections import OWN_ACCOUNT, Config

ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_PUBLIC_KEY = re.compile(r"ssh-(ed25519|rsa) +[A-Za-z0-9+/]+={0,2}( [^\n]*)?")
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_OWN_OR_ONE = f'Name one for all of them, or "{OWN_ACCOUNT}": the Unix account of each one\'s own name'


def users(config: Config) -> Iterator[tuple[str, str]]:
    if config.auth_required and not config.users and not config.auth.has_directory:
        yield "auth.required", "is true, but there is no [users.NAME]"
    for name, user in config.users.items():
        if not name or any(char.isspace() or char == ";" for char in name):
            yield f"users.{name}", "a user's name holds no white space and no semicolon"
        for group in user.groups:
            if group not in config.groups:
                yield f"users.{name}.groups", f"there is no [groups.{group}.limits]"
        if len(set(user.groups)) < len(user.groups):
            yield f"users.{name}.groups", "names a group twice"
        if user.password_hash and user.public_key:
            yield (
                f"users.{name}",
                "has a password_hash and a public_key: one of them is enough, and the other is a risk",
            )
        if not (user.password_hash or user.public_key or config.auth.has_directory):
            yield (
                f"users.{name}",
                "needs a password_hash (scdctl hash-password makes one) or a public_key (scdctl keygen)",
            )
        if user.password_hash and not user.password_hash.startswith("$argon2"):
            yield f"users.{name}.password_hash", "is not an argon2 hash (make one with: scdctl hash-password)"
        if user.public_key and not _PUBLIC_KEY.fullmatch(user.public_key):
            yield (
                f"users.{name}.public_key",
                "is no ssh-ed25519 or ssh-rsa key in one line (make one with: scdctl keygen)",
            )


def directory(config: Config) -> Iterator[tuple[str, str]]:
    """The site's own directory of users."""
    pam, ldap = config.auth.pam, config.auth.ldap
    if pam is not None and ldap is not None:
        yield "auth", "has a table for pam and one for ldap: one directory decides who somebody is"
    if pam is not None and not _SERVICE.fullmatch(pam.service):
        yield "auth.pam.service", f"{pam.service!r} is not the name of a file in /etc/pam.d"
    if ldap is not None:
        if not ldap.uri.startswith(("ldaps://", "ldap://", "ldapi://")):
            yield "auth.ldap.uri", f"{ldap.uri!r} begins with neither ldaps://, ldap:// nor ldapi://"
        if ldap.dn.count("{user}") != 1:
            yield "auth.ldap.dn", "must hold {user} once, as in uid={user},ou=people,dc=example,dc=org"
        if ldap.ca and not os.access(ldap.ca, os.R_OK):
            yield "auth.ldap.ca", f"{ldap.ca} cannot be read"
    if config.auth.has_directory and config.has_accounts and not config.local.account:
        yield "local.account", "is missing: jobs have accounts, and users of the directory none. " + _OWN_OR_ONE


def account_names(config: Config) -> Iterator[tuple[str, str]]:
    """Accounts that are named."""
    own = {f"users.{name}.account": user.account for name, user in config.users.items()}
    for key, account in {"local.account": "" if config.local.own_accounts else config.local.account, **own}.items():
        if account and not ACCOUNT.fullmatch(account):
            yield key, f"{account!r} is not the name of a Unix account"
        elif account in ("root", config.server.user or "scd"):
            yield key, f"jobs do not run as {account}"


def own_accounts(config: Config) -> Iterator[tuple[str, str]]:
    """Users who run as the Unix account of their own name."""
    if not config.local.own_accounts:
        if config.local.account_groups:
            yield "local.account_groups", f'says who may have an account of his own, and account is not "{OWN_ACCOUNT}"'
        return
    if config.local.min_uid < 1:
        yield "local.min_uid", "must be 1 or more"
    if not config.auth_required:
        yield "local.account", f'is "{OWN_ACCOUNT}", and nobody has to log in'
    for name, user in config.users.items():
        if not user.account and (not ACCOUNT.fullmatch(name) or name in ("root", config.server.user or "scd")):
            yield f"users.{name}.account", f"is missing, and no job runs as a Unix account {name!r}"


def accounts(config: Config) -> Iterator[tuple[str, str]]:
    """All users have an account, or none has."""
    if not config.has_accounts:
        return
    if not config.local.account:
        for name, user in config.users.items():
            if not user.account:
                yield f"users.{name}.account", "is missing, and others have one: set it, or local.account for all"
        if not config.auth_required:
            yield "local.account", "is missing: nobody has to log in, and jobs have accounts"
    if config.server.user == "root":
        yield "server.user", "is root, and jobs have accounts: let scd be an account of its own"
    if config.local.isolation == "none":
        yield "local.isolation", "is none: jobs of several accounts always run in sandboxes"
    if not os.path.isabs(config.local.launcher):
        yield "local.launcher", "must be an absolute path"
