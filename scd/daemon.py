"""``scd``: the daemon, in the foreground."""

import argparse
import asyncio
import contextlib
import logging
import os
import pwd
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import __version__
from .admission import Admission
from .board import Board
from .config import DEFAULT_FILE, Config, Settings, is_loopback, load, render
from .drain import Drain
from .errors import ConfigError, ScdError
from .executors.batches import AccountBatches, Batches, OwnBatches
from .executors.local import LocalExecutor
from .executors.router import Router
from .executors.slurm import SlurmExecutor
from .intake import Intake
from .janitor import Janitor
from .launcher.accounts import Account, acting_as
from .launcher.base import Launcher
from .launcher.gateway import Gateway
from .launcher.isolation import isolate
from .launcher.local import LocalLauncher
from .launcher.spec import BatchScripts
from .lock import locked
from .metrics import Metrics
from .observe import set_up
from .procfs import hide_from_equals
from .pulse import beat
from .recovery import recover
from .reload import Reload
from .runtimes import Runtimes
from .scheduler import Scheduler
from .sealing import Sealing
from .spool import Spool
from .store import Database, JobStore, UsageStore
from .systemd import listen_fds
from .web import tls
from .web.app import build
from .web.health import Health
from .web.login import Login
from .web.progress import Progress
from .web.server import Server, address_of, bind, in_force
from .web.services import Services

log = logging.getLogger(__name__)

_CANCEL_DEADLINE = 10.0


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
    file = (arguments.config or DEFAULT_FILE).absolute()
    try:
        config = load(arguments.config)
        if arguments.show_config:
            print(render(config), end="")
        elif arguments.check_config:
            asyncio.run(check(config, file))
            print("The configuration is good.")
        else:
            handed = listen_fds()
            in_force(config, handed)
            account = give_up_root(config)
            os.umask(0o077)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody learns how a command ended
            hide_from_equals(hidden=True)  # passwords are in its memory: no core dump, no tracer of its own account
            run(Settings(config, arguments.config), file, account, handed)
    except ScdError as error:
        print(f"scd: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


async def check(config: Config, file: Path) -> None:
    """What a start would ask of the machine. Raises ConfigError."""
    Login(config)
    tls.try_out(config)
    with tempfile.TemporaryDirectory(prefix="scd-check-") as place:
        await isolate(config, await Runtimes.probe(config), file, Path(place))
    if config.has_accounts:
        with _as_scd(config):
            await asyncio.to_thread(Gateway(Settings(config, file), patience=0).check)


def run(settings: Settings, file: Path, account: str, handed: Sequence[socket.socket]) -> None:
    """``serve``, and then no waiting for threads: one may remove the files of a large job, which goes on next time."""
    status = 0
    with asyncio.Runner() as runner:
        try:
            runner.run(serve(settings, file, account, handed))
        except ScdError as error:
            print(f"scd: {error.message}", file=sys.stderr)
            status = error.exit_code
        except Exception:
            log.critical("scd failed", exc_info=True)
            status = 1
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)


def give_up_root(config: Config) -> str:
    """Become ``[server] user`` if started as root, after making the directories for him. The account's name."""
    if os.geteuid() != 0:
        _make_directories(config, None)
        return pwd.getpwuid(os.geteuid()).pw_name
    account = _account_to_become(config)
    _make_directories(config, account)
    if account.pw_uid == 0:
        log.warning("scd runs as root, since [server] user says so, and so do its jobs")
        return account.pw_name
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir
    return account.pw_name


def _account_to_become(config: Config) -> pwd.struct_passwd:
    wanted = config.server.user or "scd"
    try:
        return pwd.getpwnam(wanted)
    except KeyError:
        raise ConfigError(
            f"scd does not run as root, and there is no account {wanted!r} to become. "
            "Make it (useradd --system scd), set [server] user to another one, or start scd as a user"
        ) from None


@contextlib.contextmanager
def _as_scd(config: Config) -> Iterator[None]:
    """scd-launcher answers scd's account alone: root asks in its name."""
    if os.geteuid() != 0:
        yield
        return
    account = _account_to_become(config)
    with acting_as(Account(account.pw_name, account.pw_uid, account.pw_gid)):
        yield


def _make_directories(config: Config, account: pwd.struct_passwd | None) -> None:
    paths = config.paths
    for directory in (paths.state, paths.spool, paths.cache, *(os.path.dirname(path) for path in config.unix_sockets)):
        try:
            if not os.path.isdir(directory):
                # Jobs read the cache, under whichever account.
                os.makedirs(directory, mode=0o755 if directory == paths.cache else 0o700)
                if account is not None:
                    os.chown(directory, account.pw_uid, account.pw_gid)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be made: {error.strerror}") from None


async def serve(settings: Settings, file: Path, account: str, handed: Sequence[socket.socket]) -> None:
    """Run until SIGTERM. Jobs that run then go on without the daemon, or are cancelled, as configured.

    ``handed`` are sockets that the service manager holds; they take the place of those of the configuration.
    """
    config = settings.config
    login = Login(config)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked(config))
        certificate = tls.context(config)
        _warn_of_certificate(config)
        runtimes = await Runtimes.probe(config)
        sandboxes = await isolate(config, runtimes, file, Path(config.paths.state) / "sandbox")
        gateway = Gateway(settings) if config.has_accounts else None
        launcher: Launcher = gateway or LocalLauncher(config, runtimes, sandboxes)
        await asyncio.to_thread(launcher.check)
        spool = Spool(Path(config.paths.spool), launcher, shared=bool(config.has_accounts or config.server.accel))
        await asyncio.to_thread(spool.create)
        database = await stack.enter_async_context(
            await Database.open(config.database, expected=await asyncio.to_thread(spool.holds_jobs))
        )
        store, usage, board, metrics = JobStore(database), UsageStore(database), Board(), Metrics()
        scheduler = Scheduler(settings, store, usage, board, metrics)
        sealing = Sealing(settings, store, spool, launcher)
        local = LocalExecutor(spool, launcher, scheduler.wake, sealing.make_ready)
        stack.push_async_callback(local.close)
        executor = Router([local])
        scheduler.use(executor)
        if config.slurm is not None:
            batches: Batches = (
                AccountBatches(gateway, spool)
                if gateway is not None
                else OwnBatches(config.slurm, spool, BatchScripts(config, runtimes, sandboxes))
            )
            slurm = SlurmExecutor(config.slurm, spool, batches, local, scheduler.wake)
            stack.push_async_callback(slurm.close)
            await slurm.start()
            executor.add(slurm)
            scheduler.use(executor, lambda: slurm.partitions, lambda: slurm.largest_array)
        janitor = Janitor(settings, store, spool, board)
        progress = Progress(board)
        admission = Admission(settings, usage, scheduler)
        drain = Drain(settings)
        await asyncio.to_thread(drain.load)

        def take(new: Config) -> None:
            in_force(new, handed)
            if gateway is not None:
                gateway.check_new(new)
            login.use(new)

        reload = Reload(settings, take, lambda _: scheduler.wake())
        services = Services(
            settings=settings, store=store, usage=usage, admission=admission, spool=spool, scheduler=scheduler,
            executor=executor, board=board, runtimes=runtimes, login=login,
            intake=Intake(settings, spool, store, scheduler, sealing, runtimes, admission), janitor=janitor,
            progress=progress, metrics=metrics, health=Health(database, executor.executors), drain=drain,
            reload=reload, draining=lambda: "scd is stopping" if server.stopping else drain.reason(),
        )  # fmt: skip

        async def last_duty() -> None:
            if settings.config.local.on_stop == "cancel":
                await scheduler.cancel_all("scd was stopped", _CANCEL_DEADLINE)

        _warn_of_plain_http(in_force(config, handed))
        addresses = [*map(address_of, handed)] or config.server.listen
        banner = f"scd {__version__} listening on {', '.join(addresses)} as {account}"
        server = Server(build(services), config, progress, banner, last_duty, certificate)
        await recover(scheduler, store, spool)
        await local.dismiss({job.job_hash for job in await store.unfinished()})
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.on_hangup)
        for duty in (scheduler.run(), janitor.run(), sealing.run(), beat(scheduler)):
            task = asyncio.create_task(duty)
            task.add_done_callback(lambda ended: _duty_ended(ended, server))
            stack.push_async_callback(_end, task)
        await server.serve([*handed] or bind(config))
    if server.failed:
        raise ScdError("The daemon ended by itself; its log says why. Jobs that run go on.")
    log.info("stopped; %s", "jobs that run go on" if settings.config.local.on_stop == "keep" else "no job runs")


def _warn_of_plain_http(config: Config) -> None:
    """Say at start what becomes of passwords that come to an address where others could read them."""
    plain = [f"{host}:{port}" for host, port in config.tcp_addresses if not is_loopback(host)]
    if plain and config.can_log_in and not config.server.tls_certificate:
        what = (
            "and [auth] plain_http lets passwords travel there for everybody to read"
            if config.auth.plain_http
            else "where no password is taken over plain HTTP but from this machine: put TLS in front"
        )
        log.warning("scd listens on %s, %s", ", ".join(plain), what)


def _warn_of_certificate(config: Config) -> None:
    """One that has expired is no reason not to run the jobs that there are."""
    try:
        tls.try_out(config)
    except tls.Expired as error:
        log.error("%s", error.message)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


def _duty_ended(task: asyncio.Task[None], server: Server) -> None:
    """A daemon whose scheduler or janitor is gone must not look alive."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("scd cannot go on: %r", error, exc_info=error)
        server.fail()


if __name__ == "__main__":
    main()
