"""The configuration's sections as frozen values; the attribute names are the keys of scd.toml."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from .addresses import split_address


class Size(int):
    """Bytes."""


class Duration(float):
    """Seconds."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PreUpload(Section, frozen=True):
    message: str
    delay: Duration = Duration(0)


class Server(Section, frozen=True):
    listen: tuple[str, ...] = ()
    user: str = ""
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    accel: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    root_path: str = ""
    metrics: tuple[str, ...] = ()
    terms: str = ""
    terms_file: str = ""
    drain: str = ""
    pre_upload: PreUpload | None = None
    progress_interval: int = 0
    max_upload: Size = Size(8 * 2**30)
    max_manifest: Size = Size(128 * 2**20)
    max_unpacked: Size = Size(64 * 2**30)
    max_members: int = 1_000_000
    max_ratio: int = 250
    max_connections: int = 2000
    max_connections_per_address: int = 1000
    min_rate: Size = Size(1024)


class Paths(Section, frozen=True):
    state: str = ""
    spool: str = ""
    cache: str = ""
    min_free: Size = Size(2**30)


class Runtime(Section, frozen=True):
    python: str
    name: str = "default"
    accepts: str = ""
    path: tuple[str, ...] = ()
    env: dict[str, str] = {}
    prolog: str = ""


class Packages(Section, frozen=True):
    sources: tuple[str, ...] = ("https://github.com/", "github://", "git+https://github.com/")


class Pam(Section, frozen=True):
    service: str = "scd"


class Ldap(Section, frozen=True):
    uri: str
    dn: str
    ca: str = ""


class Auth(Section, frozen=True):
    required: bool | None = None
    plain_http: bool = False
    pam: Pam | None = None
    ldap: Ldap | None = None

    @property
    def has_directory(self) -> bool:
        return self.pam is not None or self.ldap is not None


class Route(Section, frozen=True):
    step: str
    executor: Literal["local", "slurm"]
    partition: str = ""


class Dispatch(Section, frozen=True):
    default: Literal["local", "slurm"] = "local"
    retries: int = 0
    route: tuple[Route, ...] = ()


OWN_ACCOUNT = "{user}"


class Local(Section, frozen=True):
    cores: int = 0
    isolation: Literal["auto", "none"] = "auto"
    network: Literal["none", "host"] = "none"
    readonly: tuple[str, ...] = ()
    processes: int = 4096
    memory: Size = Size(0)
    on_stop: Literal["keep", "cancel"] = "keep"
    account: str = ""
    account_groups: tuple[str, ...] = ()
    min_uid: int = 1000
    launcher: str = "/run/scd-launcher/launcher.sock"

    @property
    def own_accounts(self) -> bool:
        """Whether users for whom no account is named run as the Unix account of their own name."""
        return self.account == OWN_ACCOUNT


class Slurm(Section, frozen=True):
    """0 and "" are Slurm's own defaults."""

    conf: str = ""
    partition: str = ""
    account: str = ""
    queues: tuple[str, ...] = ("*",)
    allow_options: tuple[str, ...] = ()
    cores: int = 1
    max_cores: int = 0
    memory: Size = Size(0)
    max_memory: Size = Size(0)
    memory_on_oom: float = 1.0
    time: Duration = Duration(0)
    max_time: Duration = Duration(0)
    poll_interval: Duration = Duration(5)
    record_timeout: Duration = Duration(60)
    parallel: int = 8


class License(Section, frozen=True):
    """``vcs = 4`` is short for a table with this count. The others, if they are not said, are read as the name."""

    count: int
    tools: tuple[str, ...] = ()  # or tool/task
    slurm: str = ""  # "": Slurm is not told


class SharedLimits(Section, frozen=True):
    """What several users may have together. None is unlimited."""

    compute_time: Duration | None = None
    bandwidth: Size | None = None
    max_jobs: int | None = None
    max_running_nodes: int | None = None
    storage: Size | None = None
    period: Duration = Duration(30 * 86400)


class Limits(Section, frozen=True):
    """What one user may have. None is unlimited."""

    max_nodes: int | None = 200
    compute_time: Duration | None = Duration(100 * 3600)
    bandwidth: Size | None = Size(20 * 2**30)
    max_result: Size | None = None
    max_jobs: int | None = 20
    max_running_nodes: int | None = 16
    storage: Size | None = Size(100 * 2**30)
    retention: Duration | None = Duration(30 * 86400)
    period: Duration = Duration(30 * 86400)

    @property
    def shared(self) -> SharedLimits:
        """Those of which a group may have a budget too."""
        return SharedLimits(**{name: getattr(self, name) for name in SharedLimits.__struct_fields__})


class Budget(NamedTuple):
    """What a user, or all users of a group together, may have."""

    group: str  # "" for a user's own
    members: tuple[str, ...]
    limits: SharedLimits


class User(Section, frozen=True):
    """With a password, a key, or neither: then the site's directory knows him."""

    password_hash: str = ""
    public_key: str = ""
    account: str = ""
    slurm_account: str = ""
    groups: tuple[str, ...] = ()
    limits: Limits = Limits()


class Group(Section, frozen=True):
    limits: SharedLimits = SharedLimits()


class Config(Section, frozen=True):
    server: Server = Server()
    paths: Paths = Paths()
    runtime: tuple[Runtime, ...] = ()
    packages: Packages = Packages()
    auth: Auth = Auth()
    dispatch: Dispatch = Dispatch()
    local: Local = Local()
    slurm: Slurm | None = None
    licenses: dict[str, License] = {}
    limits: Limits = Limits()
    groups: dict[str, Group] = {}
    users: dict[str, User] = {}

    @property
    def can_log_in(self) -> bool:
        return bool(self.users) or self.auth.has_directory

    @property
    def auth_required(self) -> bool:
        if self.auth.required is not None:
            return self.auth.required
        return self.can_log_in

    @property
    def cores(self) -> int:
        return self.local.cores or len(os.sched_getaffinity(0))

    @property
    def terms(self) -> str:
        return Path(self.server.terms_file).read_text() if self.server.terms_file else self.server.terms

    @property
    def database(self) -> Path:
        return Path(self.paths.state) / "scd.db"

    @property
    def unix_sockets(self) -> list[str]:
        return [address.removeprefix("unix:") for address in self.server.listen if address.startswith("unix:")]

    @property
    def admin_socket(self) -> str | None:
        """The first Unix socket; further ones are for proxies."""
        return next(iter(self.unix_sockets), None)

    @property
    def tcp_addresses(self) -> list[tuple[str, int]]:
        return [split_address(address) for address in self.server.listen if not address.startswith("unix:")]

    @property
    def accounts(self) -> frozenset[str]:
        """The Unix accounts for jobs that are named here; those of the users' own names come besides."""
        named = {self.local.account, *(user.account for user in self.users.values())}
        return frozenset(named - {"", OWN_ACCOUNT})

    @property
    def has_accounts(self) -> bool:
        """Whether jobs run under Unix accounts of their users, and not under scd's own."""
        return bool(self.accounts) or self.local.own_accounts

    def account_of(self, user: str) -> str:
        """The Unix account of a user's jobs. Empty: scd's own, or none for a user who is not configured any more."""
        named = self.users[user].account if user in self.users else ""
        return named or (user if self.local.own_accounts else self.local.account)

    def slurm_account_of(self, user: str) -> str:
        """The Slurm account that a user's nodes are charged to in Slurm."""
        own = self.users[user].slurm_account if user in self.users else ""
        return own or (self.slurm.account if self.slurm is not None else "")

    def users_of(self, account: str) -> frozenset[str]:
        """The users that a Unix account is: those whose ``account`` it is said to be, and the one of its name unless
        that one has been given another account."""
        named = frozenset(name for name, user in self.users.items() if (user.account or name) == account)
        is_own = self.local.own_accounts and account and account not in self.users
        return named | {account} if is_own else named

    def limits_of(self, user: str) -> Limits:
        return self.users[user].limits if user in self.users else self.limits

    def budgets_of(self, user: str) -> tuple[Budget, ...]:
        """All that count what this user does: his own, then those of his groups."""
        groups = self.users[user].groups if user in self.users else ()
        return (Budget("", (user,), self.limits_of(user).shared), *(self.budget_of(group) for group in groups))

    def budget_of(self, group: str) -> Budget:
        members = tuple(name for name, user in self.users.items() if group in user.groups)
        return Budget(group, members, self.groups[group].limits)
