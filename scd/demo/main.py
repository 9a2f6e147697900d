"""``scd-demo``: start a private daemon, send the bundled design by the real client, show what came back."""

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..launcher.isolation import INSTEAD
from ..runtimes import BOOT
from ..units import format_size

RTL = Path(__file__).with_name("rtl")
CLIENT = Path(__file__).with_name("client.py")
_START_DEADLINE = 60.0
_STOP_DEADLINE = 30.0
_NO_SANDBOX = "local.isolation: "
_NODES = """
    SELECT n.step || '/' || n."index" AS node, n.state, a.elapsed, a.cpu_seconds, a.peak_bytes
    FROM nodes n LEFT JOIN attempts a ON a.job_hash = n.job_hash AND a.step = n.step AND a."index" = n."index"
    ORDER BY n.n"""


class DemoFailed(Exception):
    """The text is for the user."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scd-demo",
        description="Send a bundled design through a private scd: no configuration needed, nothing left running.",
    )
    parser.add_argument("--runtime", metavar="PYTHON", default=sys.executable, help="a Python that has SiliconCompiler")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where results go (default: a new temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the daemon's own files too, to look at them")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    console = Console(highlight=False, soft_wrap=True)
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="scd-demo-"))
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        status = run(console, directory, os.path.abspath(arguments.runtime))
    except DemoFailed as failure:
        print(f"scd-demo: {failure}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nscd-demo: stopped", file=sys.stderr)
        status = 130
    finally:
        if not arguments.keep:
            shutil.rmtree(directory / "server", ignore_errors=True)
    sys.exit(status)


def run(console: Console, directory: Path, runtime: str) -> int:
    """The client's exit status, 0 if every node succeeded."""
    server = directory / "server"
    account = choose_account(runtime)
    if account == "root":
        console.print("As root, and with a Python that no other account can run, this private daemon stays root.")
    with daemon(console, server, runtime, account) as (port, url):
        console.print(f"[bold]scd[/bold] listens on {url}; the client sends the design [bold]heartbeat[/bold].\n")
        credentials = directory / "credentials.json"
        credentials.write_text(json.dumps({"address": "http://localhost", "port": port, "directory_whitelist": []}))
        status = subprocess.run(
            [runtime, str(CLIENT), str(credentials), str(RTL), str(directory / "build")],
            cwd=directory, stdin=subprocess.DEVNULL,
        ).returncode  # fmt: skip
        show_nodes(console, server / "state" / "scd.db")
    if status:
        raise DemoFailed(f"not every node succeeded; the client's log is above, the daemon's in {server / 'scd.log'}")
    results = directory / "build" / "heartbeat" / "job0"
    console.print(f"\nThe results lie in {results}, as after a local run:")
    for file in ("elaborate/0/outputs/heartbeat.v", "lint/0/sc_lint_0.log", "done/0/outputs/heartbeat.pkg.json"):
        if not (results / file).exists():
            raise DemoFailed(f"{results / file} is missing")
        console.print(f"  {file}")
    console.print("The daemon is stopped. For one of your own, see the README.")
    return 0


def choose_account(runtime: str) -> str:
    """Who the daemon becomes: never root, if another account can run the runtime and read scd."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    for python, *arguments in (
        [runtime, "-I", str(BOOT), "scd.runner.probe"],
        [sys.executable, "-c", "import scd.daemon"],
    ):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            probe = subprocess.run(
                [python, *arguments], user="nobody", group=pwd.getpwnam("nobody").pw_gid, extra_groups=[], cwd="/",
                env={"PATH": os.environ.get("PATH", ""), "HOME": "/"}, stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip
            if probe.returncode == 0:
                continue
        return "root"
    return "nobody"


@contextlib.contextmanager
def daemon(console: Console, server: Path, runtime: str, account: str) -> Iterator[tuple[int, str]]:
    """A daemon of our own on a free port, ended with all that it started."""
    server.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        found = pwd.getpwnam(account)
        os.chown(server, found.pw_uid, found.pw_gid)
        os.chmod(server.parent, 0o755)  # noqa: S103 - the daemon's account must get through
    try:
        process, port = _start(server, runtime, account, "auto")
    except DemoFailed as failure:
        reason = str(failure).partition(_NO_SANDBOX)[2].partition(f". {INSTEAD}")[0]
        if not reason:
            raise
        console.print(f"Its nodes run without a sandbox, on loopback only: {reason}.")
        process, port = _start(server, runtime, account, "none")
    try:
        yield port, f"http://localhost:{port}"
    finally:
        _stop(process)
        _end_shims(server)


def _start(server: Path, runtime: str, account: str, isolation: str) -> tuple[subprocess.Popen[bytes], int]:
    port = _free_port()
    config, log = server / "scd.toml", server / "scd.log"
    config.write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}", "unix:{server}/state/scd.sock"]\nuser = "{account}"\n'
        f'[paths]\nstate = "{server}/state"\ncache = "{server}/cache"\n[[runtime]]\npython = "{runtime}"\n'
        f'[local]\nisolation = "{isolation}"\n'
    )
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scd.daemon", "-c", str(config)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        _wait_until_ready(process, f"http://localhost:{port}", log)
    except BaseException:
        _stop(process)
        raise
    return process, port


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def show_nodes(console: Console, database: Path) -> None:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    table = Table(title="\nWhat scd recorded", title_justify="left", title_style="bold")
    for heading in ("node", "status", "time", "CPU", "memory"):
        table.add_column(heading, justify="left" if heading in ("node", "status") else "right")
    for node, state, elapsed, cpu, memory in connection.execute(_NODES):
        colour = "green" if state == "success" else "red"
        figures = ("-", "-", "-") if elapsed is None else (f"{elapsed:.2f} s", f"{cpu:.2f} s", format_size(memory))
        table.add_row(node, f"[{colour}]{state}[/{colour}]", *figures)
    connection.close()
    console.print(table)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/healthz", timeout=5).close()  # noqa: S310 - our own address
            return
        time.sleep(0.05)
    raise DemoFailed(f"the daemon does not start:\n{log.read_text().strip()}")


def _end_shims(server: Path) -> None:
    """Jobs outlive a daemon; this one's do not. Their shims are known by their directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{server}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
