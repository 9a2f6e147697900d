"""``scd``: the daemon, in the foreground."""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import pwd
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from . import __version__
from .auth import Passwords
from .board import Board
from .config import Config, load, render, split_address
from .errors import ConfigError, ScdError, StateLocked
from .executors.local import LocalExecutor
from .intake import Intake
from .launcher.local import Launcher
from .observe import set_up
from .recovery import recover
from .runtimes import Runtimes
from .scheduler import Scheduler
from .spool import Spool
from .store import Database, JobStore, UsageStore
from .systemd import listen_fds, notify
from .web.api import Services
from .web.app import build
from .web.progress import Progress

log = logging.getLogger(__name__)

_BACKLOG = 2048
_KEEP_ALIVE = 15
_STOP_DEADLINE = 10


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scd",
        description="A server for SiliconCompiler's remote runs. It runs in the foreground and logs to stderr.",
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration (default /etc/scd/scd.toml)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check-config", action="store_true", help="check the configuration and its runtimes, and exit")
    modes.add_argument("--show-config", action="store_true", help="print the configuration in force, and exit")
    modes.add_argument("--version", action="version", version=f"scd {__version__}")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    set_up()
    try:
        config = load(arguments.config)
        if arguments.show_config:
            print(render(config), end="")
        elif arguments.check_config:
            asyncio.run(Runtimes.probe(config))
            print("The configuration is good.")
        else:
            account = give_up_root(config)
            os.umask(0o077)
            asyncio.run(serve(config, account))
    except ScdError as error:
        print(f"scd: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


def give_up_root(config: Config) -> str:
    """Become ``[server] user`` if started as root, after making the directories for him. The account's name."""
    if os.geteuid() != 0:
        _make_directories(config, None)
        return pwd.getpwuid(os.geteuid()).pw_name
    wanted = config.server.user or "scd"
    try:
        account = pwd.getpwnam(wanted)
    except KeyError:
        raise ConfigError(
            f"scd does not run as root, and there is no account {wanted!r} to become. "
            "Make it (useradd --system scd), set [server] user to another one, or start scd as a user"
        ) from None
    _make_directories(config, account)
    if account.pw_uid == 0:
        log.warning("scd runs as root, since [server] user says so: every job can do what root can")
        return wanted
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir
    return wanted


def _make_directories(config: Config, account: pwd.struct_passwd | None) -> None:
    paths = config.paths
    for directory in (paths.state, paths.spool, paths.cache, *(os.path.dirname(path) for path in config.unix_sockets)):
        try:
            if not os.path.isdir(directory):
                os.makedirs(directory, mode=0o700)
                if account is not None:
                    os.chown(directory, account.pw_uid, account.pw_gid)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be made: {error.strerror}") from None


def lock_state(config: Config) -> int:
    """Hold the state directory for this process alone. Raises StateLocked, naming the other."""
    try:
        fd = os.open(os.path.join(config.paths.state, "scd.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{config.paths.state} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(fd, 32, 0).decode().strip()
        raise StateLocked(f"{config.paths.state} is in use by another scd (pid {other}).") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


async def serve(config: Config, account: str) -> None:
    """Run until SIGTERM. Jobs that run then go on without the daemon."""
    lock_state(config)
    runtimes = await Runtimes.probe(config)
    spool = Spool(Path(config.paths.spool))
    await asyncio.to_thread(spool.create)
    database = await Database.open(config.database)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        store, board = JobStore(database), Board()
        scheduler = Scheduler(config, store, board)
        executor = LocalExecutor(spool, Launcher(config, runtimes), scheduler.wake)
        scheduler.use(executor)
        stack.push_async_callback(executor.close)
        progress = Progress(board)
        services = Services(
            config=config, store=store, usage=UsageStore(database), spool=spool, scheduler=scheduler, executor=executor,
            board=board, runtimes=runtimes, auth=Passwords(config.users, required=config.auth_required),
            intake=Intake(spool, store, scheduler, runtimes, config.server.max_upload), progress=progress,
            terms=config.terms, draining=lambda: config.server.drain,
        )  # fmt: skip
        await recover(scheduler, store, spool)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _explain_hangup)
        loop = asyncio.create_task(scheduler.run())
        loop.add_done_callback(_scheduler_ended)
        sockets = listen_fds() or bind(config)
        server = Server(
            uvicorn.Config(
                build(services), http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, proxy_headers=False, backlog=_BACKLOG, timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_STOP_DEADLINE,
            ),
            progress, f"listening on {', '.join(config.server.listen)} as {account}",
        )  # fmt: skip
        await server.serve(sockets)
        loop.cancel()
        log.info("stopped; jobs that run go on")


class Server(uvicorn.Server):
    """uvicorn, telling the service manager when it listens, and letting held polls go when it stops."""

    def __init__(self, config: uvicorn.Config, progress: Progress, banner: str):
        super().__init__(config)
        self._progress = progress
        self._banner = banner

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("scd %s %s", __version__, self._banner)
        notify("READY=1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal answers what is in flight, the second does not wait for it."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._progress.stop()
        notify("STOPPING=1")


def bind(config: Config) -> list[socket.socket]:
    """The listening sockets of the configuration. Raises ConfigError for one that cannot be had."""
    sockets = []
    for address in config.server.listen:
        try:
            sockets.append(_bind_unix(address[5:]) if address.startswith("unix:") else _bind_tcp(address))
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    return sockets


def _bind_tcp(address: str) -> socket.socket:
    host, port = split_address(address)
    (family, *_, target), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(target)
    return listener


def _bind_unix(path: str) -> socket.socket:
    """Only after the state directory is locked: a socket found there is a dead daemon's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    return listener


def _explain_hangup() -> None:
    log.warning("SIGHUP: the configuration is read at start only. Restart scd; jobs that run are not touched")


def _scheduler_ended(task: asyncio.Task[None]) -> None:
    """A daemon whose scheduler is gone must not look alive."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the scheduler failed: %r", error, exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
