"""A machine that is booted for the tests: systemd as pid 1 of namespaces of its own, over this machine's own files or
those of another directory.

What it writes goes to a file system in memory and is gone with it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from .harness import ROOT, can_isolate, wait_until

SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()), None)
PYTHON = "/opt/scd/bin/python"
_SYSTEM_PYTHON = "/usr/bin/python3"
_CGROUPS = next(
    (path for path in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (path / "cgroup.procs").exists()),
    None,
)
# What concerns the machine below, not this one; and what would take time.
_MASKED = (
    "dev-hugepages.mount", "dev-mqueue.mount", "getty.target", "modprobe@.service", "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-binfmt.service",
    "systemd-firstboot.service", "systemd-journal-flush.service", "systemd-logind.service",
    "systemd-modules-load.service", "systemd-networkd.service", "systemd-random-seed.service",
    "systemd-remount-fs.service", "systemd-resolved.service", "systemd-sysctl.service", "systemd-timesyncd.service",
    "systemd-udev-trigger.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udevd.service", "systemd-update-utmp.service",
)  # fmt: skip

# The file system in memory outlives a reboot: pid 1 of such a namespace is then ended by a SIGHUP of the kernel's.
_HOLD = r"""
set -e
mount -t tmpfs -o mode=755 none "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
status=129
while [ $status = 129 ]; do
    status=0
    "$@" || status=$?
    find "$GROUP" -mindepth 1 -depth -type d -exec rmdir {} +
done
exit $status
"""

_BOOT = r"""
set -e
mount -t overlay overlay -o "lowerdir=$BELOW,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
%s
rm -f etc/machine-id
mkdir -p etc/systemd/system etc/systemd/system-generators .below
ln -sf /dev/null etc/systemd/system-generators/systemd-sysv-generator
for unit in $MASKED; do ln -sf /dev/null "etc/systemd/system/$unit"; done
: > etc/machine-id
pivot_root . .below
umount -l .below
exec env -i container=scd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    "$SYSTEMD" --unit=multi-user.target --log-target=journal --show-status=no
"""

_TRIAL = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t cgroup2 none /mnt/root
mount -t overlay none -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
"""

_UNSHARE = ("unshare", "--fork", "--pid", "--mount", "--cgroup", "--net", "--uts", "--ipc")

# scd from its source; of units only its own, and what every boot needs.
_INSTALL = r"""
rm -rf etc/systemd/system
mkdir -p opt/scd/app usr/lib/sysusers.d usr/lib/tmpfiles.d etc/scd var/log/journal
"$SYSTEM_PYTHON" -m venv --without-pip --symlinks opt/scd
mount --bind "$PACKAGES" "opt/scd/lib/$VERSION/site-packages"
cp -r "$SOURCE/scd" opt/scd/app/
cp "$SOURCE"/systemd/*.service "$SOURCE"/systemd/*.socket "$SOURCE"/systemd/*.timer usr/lib/systemd/system/
cp "$SOURCE/systemd/sysusers.d/scd.conf" usr/lib/sysusers.d/
cp "$SOURCE/systemd/tmpfiles.d/scd.conf" usr/lib/tmpfiles.d/
for program in scd=scd.daemon scdctl=scd.cli.main scd-launcher=scd.launcher.service; do
    printf '#!/bin/sh\nPYTHONPATH=/opt/scd/app exec /opt/scd/bin/python -P -m %s "$@"\n' "${program#*=}" \
        > "usr/bin/${program%=*}"
    chmod 755 "usr/bin/${program%=*}"
done
cp "$CONFIG" etc/scd/scd.toml
cp "$CLIENT" opt/scd/client.py
chmod -R a+rX opt/scd/app opt/scd/client.py
mkdir -p etc/systemd/system/sockets.target.wants
ln -s /usr/lib/systemd/system/scd.socket etc/systemd/system/sockets.target.wants/
"""


class Machine:
    """``directory`` is where its files are mounted, and must be empty. ``below`` are the files that it has, to which
    the shell script ``install`` adds, in the machine's root, before it is booted."""

    def __init__(self, directory: Path, install: str, below: Path = Path("/"), **environment: str):
        self.directory = directory
        self._install = install
        self._environment = {"BELOW": str(below)} | environment
        self._group = _CGROUPS / f"scd-test-{os.getpid()}" if _CGROUPS is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> "Machine":
        place = self.directory / "machine"
        place.mkdir()
        assert self._group is not None
        self._group.mkdir()
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PLACE": str(place), "GROUP": str(self._group),
            "MASKED": " ".join(_MASKED), "SYSTEMD": SYSTEMD or "", "SYSTEM_PYTHON": _SYSTEM_PYTHON, "SOURCE": str(ROOT),
            "PACKAGES": sysconfig.get_path("purelib"), "CLIENT": str(ROOT / "tests" / "acceptance" / "client.py"),
            "VERSION": f"python{sys.version_info.major}.{sys.version_info.minor}", **self._environment,
        }  # fmt: skip
        script = f'echo $$ > {shlex.quote(str(self._group / "cgroup.procs"))}; exec "$@"'
        with open(self.directory / "console", "wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", script, "sh", "unshare", "--mount", "sh", "-c", _HOLD, "sh", *_UNSHARE, "sh", "-c",
                 _BOOT % self._install],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True,
            )  # fmt: skip
        wait_until(self._is_up, "the machine did not boot", 120)
        return self

    def reboot(self) -> None:
        """In order. What was written stays; what ``install`` does is done again."""
        before = self._init
        self.run("systemctl", "reboot", check=False)  # which may be ended before it can tell
        wait_until(lambda: not Path(f"/proc/{before}").exists(), "the machine did not go down", 120)
        wait_until(self._is_up, "the machine did not boot again", 120)

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the machine did not boot:\n{(self.directory / 'console').read_text()}")
        pid = str(self._process.pid)
        try:
            for _ in range(2):
                pid = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
            if "systemd" not in Path(f"/proc/{pid}/cmdline").read_text():
                return False
        except (OSError, IndexError):
            return False
        self._init = int(pid)
        return self.run("systemctl", "is-active", "multi-user.target", check=False).returncode == 0

    def run(
        self, *argv: str, check: bool = True, account: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, as root or another account."""
        done = subprocess.run([*self.command(account), *argv], capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done

    def command(self, account: str = "") -> list[str]:
        """What to put before a command that is to run inside."""
        enter = ["nsenter", "--target", str(self._init), "--all", "env", "-i", "--chdir=/", "LANG=C.UTF-8",
                 "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]  # fmt: skip
        return [*enter, *(["setpriv", f"--reuid={account}", f"--regid={account}", "--init-groups"] if account else [])]

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def write(self, path: str, text: str) -> None:
        subprocess.run([*self.command(), "sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}"], input=text,
                       text=True, check=True)  # fmt: skip

    def journal(self) -> str:
        """The last lines of all units."""
        done = subprocess.run([*self.command(), "journalctl", "--no-pager", "-n", "80"], capture_output=True, text=True)
        return done.stdout + done.stderr

    def power_off(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # else it would boot again
                if self._init:
                    os.kill(self._init, signal.SIGKILL)  # pid 1: the kernel ends all of the namespace
            self._process.wait(30)
        if self._group is not None:
            for _ in range(100):
                for path, *_ in os.walk(self._group, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
                if not self._group.exists():
                    break
                time.sleep(0.1)


@contextlib.contextmanager
def machine(directory: Path, config: str) -> Iterator[Machine]:
    """This machine with scd from its source, and ``config`` as its /etc/scd/scd.toml."""
    file = directory / "scd.toml"
    file.write_text(config)
    with booted(Machine(directory, _INSTALL, CONFIG=str(file))) as made:
        yield made


@contextlib.contextmanager
def booted(made: Machine) -> Iterator[Machine]:
    try:
        yield made.boot()
    finally:
        made.power_off()


def why_not() -> str:
    """Why no machine can be booted here; empty if one can."""
    if os.geteuid() != 0:
        return "only root can boot a machine in namespaces"
    if SYSTEMD is None or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if missing := [name for name in ("unshare", "nsenter", "setpriv") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    if not can_isolate():
        return "bubblewrap is not installed, or may not make namespaces here"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = f'import sys, venv; sys.exit("{version}" != "%d.%d" % sys.version_info[:2])'
    if subprocess.run([_SYSTEM_PYTHON, "-c", asked], capture_output=True).returncode:
        return f"the system's Python is not {version}, for which the tests' packages were installed"
    if _CGROUPS is None or not os.access(_CGROUPS, os.W_OK):
        return "there is no cgroup hierarchy of version 2 here in which groups can be made"
    done = subprocess.run([*_UNSHARE, "sh", "-c", _TRIAL], capture_output=True, text=True)
    return f"no namespaces for a machine can be made here: {done.stderr.strip()}" if done.returncode else ""
