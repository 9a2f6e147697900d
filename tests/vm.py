"""A second machine for what this one lets no test do: Linux in QEMU, with this machine's files and its own systemd.

It changes nothing: all that is written there lies in its memory. ``SCD_TEST_KERNEL`` names an unpacked kernel package,
a directory with ``boot`` and ``lib/modules``; without it the kernels that are installed are looked through.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

_ARCHITECTURE = "x86_64"
_BUSYBOX = Path("/bin/busybox")
# In the order in which they are loaded; those that the kernel has built in are not there.
_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "netfs", "fscache",
    "9pnet", "9pnet_virtio", "9p", "overlay",
)  # fmt: skip
_INIT = """#!/bin/busybox sh
export PATH=/bin
for module in /modules/*; do busybox insmod $module; done
busybox mkdir -p /dev /proc /lower /upper /root
busybox mount -t devtmpfs none /dev
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /lower
busybox mount -t tmpfs -o size=80% none /upper
busybox mkdir /upper/new /upper/work
busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/new,workdir=/upper/work none /root
busybox mkdir -p /root/out
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 out /root/out
busybox cp /units/* /root/etc/systemd/system/
busybox rm -f /root/.dockerenv /root/etc/fstab
busybox ln -s /dev/null /root/etc/systemd/system/systemd-tmpfiles-setup.service
busybox mount -t proc none /proc
exec busybox switch_root /root /lib/systemd/systemd
"""
_SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh /out/script
StandardOutput=append:/out/said
StandardError=inherit
WorkingDirectory={directory}
Environment="PATH={path}" SCD_TEST_RUNTIME={runtime}
ExecStopPost=/bin/sh -c 'echo $$EXIT_STATUS >/out/status; sync; systemctl --force --force poweroff'
"""


class Kernel(NamedTuple):
    image: Path
    modules: Path


def why_not() -> str:
    """Why no machine can be started here; empty if one can."""
    if os.uname().machine != _ARCHITECTURE:
        return f"the second machine is {_ARCHITECTURE}"
    if shutil.which("qemu-system-x86_64") is None or not _BUSYBOX.exists():
        return "no second machine: qemu-system-x86 or busybox-static is not installed"
    if not Path("/lib/systemd/systemd").exists():
        return "no second machine: systemd is not installed"
    if os.geteuid() != 0:
        return "no second machine: only root reads all files that it needs"
    if kernel() is None:
        return "no second machine: no kernel is installed, and SCD_TEST_KERNEL names none"
    return ""


@cache
def kernel() -> Kernel | None:
    for root in filter(None, (os.environ.get("SCD_TEST_KERNEL"), "/")):
        for image in sorted(Path(root, "boot").glob("vmlinuz-*"), reverse=True):
            modules = Path(root, "lib", "modules", image.name.removeprefix("vmlinuz-"))
            if modules.is_dir():
                return Kernel(image, modules)
    return None


def run(script: str, place: Path, runtime: str, *, cwd: Path, more: str = "", timeout: float = 240) -> tuple[int, str]:
    """The exit status of a shell script that root runs there, and what it said. ``more`` for the kernel's command line.

    ``place`` is a directory for what is needed meanwhile; it is ``/out`` there, and what is written into it stays.
    """
    found = kernel()
    assert found is not None
    (place / "script").write_text(script)
    unit = _SERVICE.format(directory=cwd, path=os.environ["PATH"], runtime=shlex.quote(runtime))
    initrd = _initrd(place, found.modules, {"scd-test.service": unit})
    shares = ["local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
              f"local,path={place},mount_tag=out,security_model=none"]  # fmt: skip
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-nodefaults",
        "-no-reboot", "-nographic", "-serial", f"file:{place}/console", "-kernel", str(found.image),
        "-initrd", str(initrd), "-append", f"console=ttyS0 quiet panic=-1 systemd.unit=scd-test.service {more}",
        *(part for share in shares for part in ("-virtfs", share)),
    ]  # fmt: skip
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    said, status = (_text(place / name) for name in ("said", "status"))
    assert status.strip(), f"the machine did not finish:\n{said}\n{_text(place / 'console')}"
    return int(status), said


def _initrd(place: Path, modules: Path, units: dict[str, str]) -> Path:
    root = place / "initrd"
    for name in ("bin", "modules", "units"):
        (root / name).mkdir(parents=True)
    shutil.copy(_BUSYBOX, root / "bin" / "busybox")
    for number, name in enumerate(_MODULES):
        for found in modules.rglob(f"{name}.ko"):
            shutil.copy(found, root / "modules" / f"{number:02}.ko")
    for name, text in units.items():
        (root / "units" / name).write_text(text)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    packed = place / "initrd.cpio"
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    with open(packed, "wb") as target:
        subprocess.run(
            [_BUSYBOX, "cpio", "-o", "-H", "newc"], input=names.encode(), stdout=target, stderr=subprocess.DEVNULL,
            cwd=root, check=True,
        )  # fmt: skip
    return packed


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
