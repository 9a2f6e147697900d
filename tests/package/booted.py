"""The clean system, booted, with the tests' SiliconCompiler; and the real client on it."""

import json
import subprocess
from typing import Any

from ..harness import wait_until
from ..machine import Machine

RUNTIME = "/opt/siliconcompiler"
CREDENTIALS = {"address": "http://localhost", "port": 8080, "directory_whitelist": []}


def install(runtime: str) -> str:
    """What a machine needs besides the package, as a script: see ``Machine``. ``runtime``: where SiliconCompiler is."""
    return f"""
"$SYSTEM_PYTHON" -m venv --without-pip --symlinks ".{runtime}"
mount --bind "$PACKAGES" ".{runtime}/lib/$VERSION/site-packages"
cp "$CLIENT" root/
echo "127.0.0.1 localhost" > etc/hosts
mkdir -p var/log/journal
"""


def client(host: Machine, name: str, script: str) -> "subprocess.Popen[str]":
    """The real client, on that machine."""
    host.run("mkdir", f"/root/{name}")
    command = [*host.command(), "HOME=/root", f"{RUNTIME}/bin/python", "/root/client.py", "work", "/root/credentials"]
    return subprocess.Popen(
        [*command, f"/root/{name}", f"script={script}", "threads=1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(host: Machine, name: str, process: "subprocess.Popen[str]") -> None:
    """Wait for the good end of a client and of all its nodes."""
    out, _ = process.communicate(timeout=120)
    found = json.loads(host.run("cat", f"/root/{name}/report.json", check=False).stdout or '{"error": "no report"}')
    assert found["error"] == "", f"{out}\n{host.journal()}"
    assert set(found["statuses"].values()) == {"success"}, out


def node(host: Machine, mark: str) -> str:
    """The pid of a node's own program once it runs."""

    def found() -> str:
        return host.run("pgrep", "-f", f"^sleep {mark}$", check=False).stdout.strip()

    wait_until(found, "the node never ran", 60)
    return found()


def listed(host: Machine, what: str) -> list[dict[str, Any]]:
    """``jobs`` or ``nodes``, as scdctl has them."""
    return list(json.loads(host.run("scdctl", "--json", what, "-S", "today").stdout)[what])
