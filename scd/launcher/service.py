"""``scd-launcher``: the only part of scd that is root. No network as root, no database, no HTTP.

It takes requests of scd's account on a Unix socket and forks a child for each, which checks everything again, becomes
the account that is concerned, and only then touches anything of a job, or talks to Slurm. The service itself holds no
state: it can be killed and started again at any time, and jobs go on.
"""

import argparse
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from types import FrameType

import msgspec

from .. import __version__
from ..config import DEFAULT_FILE
from ..errors import ScdError
from ..procfs import hide_from_equals
from ..systemd import notify
from .accounts import Refused
from .cgroup import Gone
from .duties import carry_out
from .foundation import make_ready, renew, say
from .ground import Ground
from .requests import BUFFER, MOST_BYTES, Reply, decode, encode

_MOST_CHILDREN = 32  # beside those that call sbatch
_PATIENCE = 10.0  # for a request to come
_CHILD_DEADLINE = 600
_TIDY = 30.0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scd-launcher",
        description="Starts jobs under Unix accounts for scd. It is root, runs in the foreground and logs to stderr.",
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration (default /etc/scd/scd.toml)")
    parser.add_argument("--version", action="version", version=f"scd-launcher {__version__}")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    hide_from_equals(hidden=True)  # no core dump: the configuration with its hashes is read
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until it can be obeyed: it would end it
    try:
        serve(make_ready((arguments.config or DEFAULT_FILE).absolute()))
    except ScdError as error:
        print(f"scd-launcher: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


def serve(ground: Ground) -> None:
    """Until SIGTERM. A request that is being carried out then is finished by its own process.

    So is one that is being carried out at a SIGHUP, by the configuration that it began with.
    """
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    stopping: list[int] = []
    hung_up: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    def hang_up(number: int, _: FrameType | None) -> None:
        hung_up.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGHUP, hang_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    os.umask(0o077)
    os.chdir("/")  # where its children, as whichever account, can be
    _set_apart()
    children: set[int] = set()
    slurm = ground.config.slurm
    most = _MOST_CHILDREN + (slurm.parallel if slurm is not None else 0)
    with _listen(ground) as listener:
        print(f"scd-launcher {__version__} serves {ground.scd.name} on {ground.config.local.launcher}", file=sys.stderr)
        sys.stderr.flush()
        notify("READY=1")
        while not stopping:
            sources: list[int] = [woken, *([listener.fileno()] if len(children) < most else [])]
            ready, _, _ = select.select(sources, [], [], _TIDY)
            if woken in ready:
                os.read(woken, 4096)
            _reap(children)
            if hung_up:  # one reading for all that came before it
                hung_up.clear()
                ground = _reload(ground)
            if ground.cgroups is not None:
                ground.cgroups.tidy()
            if listener.fileno() in ready:
                _accept(listener, ground, children)
    notify("STOPPING=1")


def _reload(ground: Ground) -> Ground:
    """By what is in the files now, or as it was."""
    notify("RELOADING=1")
    try:
        ground, waiting = renew(ground)
    except Exception as error:  # whatever it holds: who is served goes on to be
        say(f"the configuration is not reloaded, the old one stays in force: {error}")
    else:
        say(f"the configuration is reloaded{''.join(f'; {key} waits for a restart' for key in waiting)}")
        _set_apart()
    notify("READY=1")
    return ground


def _set_apart() -> None:
    """What there is now is no garbage: the first collection in each child would copy all the memory that they share."""
    gc.collect()
    gc.freeze()


def _listen(ground: Ground) -> socket.socket:
    """In a directory that only root writes, so that what is bound here is what is given to scd."""
    path = Path(ground.config.local.launcher)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.setblocking(False)
    listener.bind(str(path))
    path.chmod(0o600)
    os.chown(path, ground.scd.uid, ground.scd.gid)
    listener.listen(128)
    return listener


def _accept(listener: socket.socket, ground: Ground, children: set[int]) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    with connection:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != ground.scd.uid:
            say(f"uid {uid} is not {ground.scd.name}: not answered")
            return
        try:
            pid = os.fork()
        except OSError as error:  # the daemon asks again
            say(str(error))
            return
        if pid:
            children.add(pid)
            return
        try:
            listener.close()
            _answer(connection, ground)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)


def _answer(connection: socket.socket, ground: Ground) -> None:
    """In the child. Whatever goes wrong is its own end, and no one else's."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_CHILD_DEADLINE)
    connection.settimeout(_PATIENCE)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    try:
        data = connection.recv(MOST_BYTES + 1)
        if not data:
            return
        if len(data) > MOST_BYTES:
            raise Refused("the request is too large")
        reply = Reply(value=carry_out(ground, decode(data)))
    except (Refused, msgspec.DecodeError, RecursionError) as error:
        reply = Reply(error=str(error))
    except OSError as error:
        reply = Reply(error=f"scd-launcher: {error}")
    except Gone as error:  # no answer: the daemon asks again, until somebody has mended it
        say(str(error))
        return
    if reply.error:
        say(f"refused: {reply.error}")
    connection.sendall(encode(reply))


def _reap(children: set[int]) -> None:
    for pid in list(children):
        if os.waitpid(pid, os.WNOHANG)[0]:
            children.discard(pid)


if __name__ == "__main__":
    main()
