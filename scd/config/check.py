"""What a configuration must hold beyond the types of its values."""

import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ..errors import ConfigError
from .sections import OWN_ACCOUNT, Config, SharedLimits, is_loopback, split_address

_OPEN = (
    "is open to other machines, and nobody has to log in. "
    "Add [users.NAME] with a password_hash or a public_key (and [auth] required = true), or listen on 127.0.0.1 only"
)

_OWN_OR_ONE = f'Name one for all of them, or "{OWN_ACCOUNT}": the Unix account of each one\'s own name'
_MOST_RETRIES = 10

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_VARIABLES = frozenset({"PATH", "HOME", "TMPDIR", "USER", "LOGNAME"})
_PUBLIC_KEY = re.compile(r"ssh-(ed25519|rsa) +[A-Za-z0-9+/]+={0,2}( [^\n]*)?")
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SLURM_RANGES = (
    ("cores", 1, 4096), ("max_cores", 0, 4096), ("memory_on_oom", 1, 16), ("poll_interval", 1, 60),
    ("record_timeout", 15, 3600), ("parallel", 1, 64),
)  # fmt: skip
_OPTION = re.compile(r"--[a-z][a-z0-9-]{1,40}")
# What scd gives itself, what would run something else or as somebody else, and what makes many jobs of one.
_OWN_OPTIONS = frozenset({
    "--account", "--array", "--begin", "--chdir", "--clusters", "--comment", "--cpus-per-task", "--error", "--export",
    "--export-file", "--get-user-env", "--gid", "--hold", "--input", "--job-name", "--mem", "--nodes", "--ntasks",
    "--open-mode", "--output", "--parsable", "--partition", "--requeue", "--no-requeue", "--propagate", "--time",
    "--uid", "--wait", "--wrap", "--bb", "--bbf", "--test-only", "--quiet", "--verbose", "--help", "--usage",
    "--version", "--ignore-pbs", "--kill-on-invalid-dep", "--time-min", "--mem-per-cpu", "--mem-per-gpu",
})  # fmt: skip

_LICENSE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SLURM_LICENSE = re.compile(r"[A-Za-z0-9_.-]{1,64}(@[A-Za-z0-9_.-]{1,64})?")
_TOOL = re.compile(r"[^/\s]+(/[^/\s]+)?")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)+")
ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")

Origin = Callable[[str], Path]  # the file that a key was read from


def check(config: Config, origin: Origin) -> None:
    """Raise ConfigError for the first thing that is wrong."""
    for rule in _RULES:
        for key, reason in rule(config):
            raise ConfigError(f"{origin(key)}: {key}: {reason}")


def _addresses(config: Config) -> Iterator[tuple[str, str]]:
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


def _proxies(config: Config) -> Iterator[tuple[str, str]]:
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


def _tls(config: Config) -> Iterator[tuple[str, str]]:
    server = config.server
    for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(server, other) and not getattr(server, key):
            yield f"server.{key}", f"is missing, and there is a {other}"


def _server(config: Config) -> Iterator[tuple[str, str]]:
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


def _at_least_one(config: Config) -> Iterator[tuple[str, str]]:
    for key in ("max_members", "max_ratio", "max_connections", "max_connections_per_address"):
        if getattr(config.server, key) < 1:
            yield f"server.{key}", "must be 1 or more"


def _users(config: Config) -> Iterator[tuple[str, str]]:
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


def _directory(config: Config) -> Iterator[tuple[str, str]]:
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


def _numbers(config: Config) -> Iterator[tuple[str, str]]:
    if config.local.cores < 0:
        yield "local.cores", "must be 0 (all cores) or more"
    if not 0 <= config.dispatch.retries <= _MOST_RETRIES:
        yield "dispatch.retries", f"must be 0 to {_MOST_RETRIES}"
    own = {f"users.{name}.limits": user.limits for name, user in config.users.items()}
    for table, limits in {"limits": config.limits, **own}.items():
        yield from _limits(table, limits.shared)
        if (limits.max_nodes or 0) < 0:
            yield f"{table}.max_nodes", 'must be 0 or more, or "unlimited"'
    for name, group in config.groups.items():
        yield from _limits(f"groups.{name}.limits", group.limits)


def _limits(table: str, limits: SharedLimits) -> Iterator[tuple[str, str]]:
    for key in ("max_jobs", "max_running_nodes"):
        if (getattr(limits, key) or 0) < 0:
            yield f"{table}.{key}", 'must be 0 or more, or "unlimited"'
    if limits.max_running_nodes == 0:
        yield f"{table}.max_running_nodes", "is 0: no job could ever end. To stop new jobs, set max_jobs = 0"
    if limits.period < 1:
        yield f"{table}.period", "must be a second or more"


def _isolation(config: Config) -> Iterator[tuple[str, str]]:
    if config.local.processes < 0:
        yield "local.processes", "must be 0 (no limit of the job's own) or more"
    for path in config.local.readonly:
        if not os.path.isabs(path):
            yield "local.readonly", f"{path!r} is not an absolute path"
        elif not os.path.exists(path):
            yield "local.readonly", f"{path} is not there"


def _account_names(config: Config) -> Iterator[tuple[str, str]]:
    """Accounts that are named."""
    own = {f"users.{name}.account": user.account for name, user in config.users.items()}
    for key, account in {"local.account": "" if config.local.own_accounts else config.local.account, **own}.items():
        if account and not ACCOUNT.fullmatch(account):
            yield key, f"{account!r} is not the name of a Unix account"
        elif account in ("root", config.server.user or "scd"):
            yield key, f"jobs do not run as {account}"


def _own_accounts(config: Config) -> Iterator[tuple[str, str]]:
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


def _accounts(config: Config) -> Iterator[tuple[str, str]]:
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


def _slurm(config: Config) -> Iterator[tuple[str, str]]:
    slurm = config.slurm
    if slurm is None:
        if config.dispatch.default == "slurm":
            yield "dispatch.default", "is slurm, and there is no [slurm] (an empty table will do)"
        if any(route.executor == "slurm" for route in config.dispatch.route):
            yield "dispatch.route", "leads to slurm, and there is no [slurm] (an empty table will do)"
        return
    if slurm.conf and not os.access(slurm.conf, os.R_OK):
        yield "slurm.conf", f"{slurm.conf} cannot be read"
    for option in slurm.allow_options:
        if not _OPTION.fullmatch(option):
            yield "slurm.allow_options", f"{option!r} is not a long option of sbatch, as --constraint"
        elif option in _OWN_OPTIONS:
            yield "slurm.allow_options", f"{option} is scd's own to give, or another key's: nobody else may"
    for key, least, most in _SLURM_RANGES:
        if not least <= getattr(slurm, key) <= most:
            yield f"slurm.{key}", f"must be {least} to {most}"


def _licenses(config: Config) -> Iterator[tuple[str, str]]:
    owners: dict[str, str] = {}
    for name, wanted in config.licenses.items():
        if not _LICENSE.fullmatch(name):
            yield f"licenses.{name}", "a licence's name holds letters, digits and _.-"
        if wanted.count < 0:
            yield f"licenses.{name}.count", "must be 0 (no node may have one) or more"
        if wanted.slurm and not _SLURM_LICENSE.fullmatch(wanted.slurm):
            yield f"licenses.{name}.slurm", f"{wanted.slurm!r} is not a licence as Slurm has it: vcs, or vcs@server"
        for tool in wanted.tools:
            if not _TOOL.fullmatch(tool):
                yield f"licenses.{name}.tools", f"{tool!r} is not a tool as vcs, or one task of it as calibre/drc"
            elif owners.setdefault(tool, name) != name:
                yield f"licenses.{name}.tools", f"{tool} needs {owners[tool]} already: a node holds one licence"
    if config.licenses and config.slurm is not None and "--licenses" in config.slurm.allow_options:
        yield "slurm.allow_options", "--licenses is scd's own to give, since there are [licenses]"


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    for name in ("state", "spool", "cache"):
        if not os.path.isabs(getattr(config.paths, name)):
            yield f"paths.{name}", "must be an absolute path"


def _how_to_make(python: Path) -> str:
    """The commands for one that lies as in a virtual environment."""
    instead = "ame the Python that has SiliconCompiler"
    if python.parent.name != "bin" or not python.is_absolute():
        return f"N{instead}"
    place = shlex.quote(str(python.parents[1]))
    return f"Make it: python3 -m venv {place} && {place}/bin/pip install siliconcompiler; or n{instead}"


def _runtimes(config: Config) -> Iterator[tuple[str, str]]:
    if len({runtime.name for runtime in config.runtime}) < len(config.runtime):
        yield "runtime", "two runtimes have the same name"
    for source in config.packages.sources:
        if not re.fullmatch(r"[a-z][a-z0-9+]*://(.*/)?", source):
            yield (
                "packages.sources",
                f"{source!r} is not the beginning of sources, as https://github.com/, up to a slash",
            )
    for runtime in config.runtime:
        if not Path(runtime.python).is_file() or not os.access(runtime.python, os.X_OK):
            yield "runtime", f"{runtime.python} is not a program. {_how_to_make(Path(runtime.python))}"
        try:
            SpecifierSet(runtime.accepts)
        except InvalidSpecifier:
            yield "runtime", f'accepts: {runtime.accepts!r} is not written as pip does: ">=0.54, <0.57"'
        for path in runtime.path:
            if not os.path.isabs(path) or ":" in path:
                yield "runtime", f"path: {path!r} is not an absolute path without colons"
        for name in runtime.env:
            if not _VARIABLE.fullmatch(name):
                yield "runtime", f"env: {name!r} is not the name of a variable"
            elif name in _OWN_VARIABLES:
                yield "runtime", f"env: {name} is scd's own" + (", and path adds to it" if name == "PATH" else "")


_RULES = (
    _paths,
    _addresses,
    _proxies,
    _tls,
    _server,
    _at_least_one,
    _users,
    _directory,
    _numbers,
    _isolation,
    _account_names,
    _own_accounts,
    _accounts,
    _slurm,
    _licenses,
    _runtimes,
)
