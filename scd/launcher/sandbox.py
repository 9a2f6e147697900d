"""What a job sees of the machine: the arguments of bubblewrap (bwrap) that put its runner into a sandbox.

A job sees the programs of the system, its runtime, the package cache and what ``[local] readonly`` names, all of them
read-only; it writes in its own directory and in a /tmp of its own. Everything else is not hidden but absent: the new
root is an empty file system that only gets what is listed here.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Of /etc only what programs read to find libraries, fonts, time zones, certificates and each other.
_ETC = (
    "alternatives", "ca-certificates", "crypto-policies", "debian_version", "fonts", "gai.conf", "host.conf",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "lsb-release", "magic", "mime.types",
    "os-release", "perl", "pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs", "protocols", "python3", "redhat-release",
    "rpc", "services", "shells", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
_JAVA = "java*"  # Debian's Java keeps its configuration there, and does not start without it
# How many cores there are, for OpenMP, Java and the like.
_SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
_ROOT_DIRECTORIES = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")

# Made for the jobs in place of the machine's own, which name its users.
_PASSWD = "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"  # noqa: S105
_GROUP = "root:x:0:\nnogroup:x:65534:\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\nrpc: files\n"
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"

TEMPORARY = "/tmp"  # noqa: S108 - the job's own


class Sandbox(NamedTuple):
    """What is the same for all jobs of one runtime. Paths are absolute."""

    bwrap: str
    etc: str  # a directory with the files of ``etc_files``
    readonly: tuple[str, ...] = ()  # shown at their own places: the runtime, the cache, the site's tools
    network: bool = False  # the machine's network, or none but a loopback of its own
    sealed: bool = True  # no further user namespaces inside; bwrap can do that from 0.8 on

    def argv(self, work: str, temporary: str) -> list[str]:
        """What to put before ``--`` and a command.

        ``work`` is the directory that the job may write, at its own place, and ``temporary`` its /tmp.
        """
        options = [
            "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
            *([] if self.network else ["--unshare-net"]), *(["--disable-userns"] if self.sealed else []),
            # The runner is pid 1: nothing in there can kill it, and all of it ends with it.
            "--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            "--proc", "/proc", "--dev", "/dev",
            "--bind", temporary, TEMPORARY, "--symlink", f"..{TEMPORARY}", f"/var{TEMPORARY}",
        ]  # fmt: skip
        return [
            self.bwrap, *options, *_system(), *self._etc(), *_bind(("/usr", *_SYS, *self.readonly)),
            "--bind", work, work, "--remount-ro", "/", "--chdir", work,
        ]  # fmt: skip

    def _etc(self) -> list[str]:
        """A place that is a link, as /etc/localtime, is shown as what it leads to."""
        found = [f"/etc/{name}" for name in _ETC]
        found += sorted(str(path) for path in Path("/etc").glob(_JAVA))
        own = ["passwd", "group", "nsswitch.conf"]
        if self.network:
            found += ["/etc/hosts", "/etc/resolv.conf"]
        else:
            own.append("hosts")
        options = [part for path in found for part in ("--ro-bind-try", path, path)]
        return options + [part for name in own for part in ("--ro-bind", f"{self.etc}/{name}", f"/etc/{name}")]


def etc_files(uid: int, gid: int) -> dict[str, str]:
    """Name and text of the files that ``Sandbox.etc`` must hold for an account."""
    passwd, group = _PASSWD, _GROUP
    if uid not in (0, 65534):
        passwd += f"scd:x:{uid}:{gid}:scd:/:/bin/sh\n"
    if gid not in (0, 65534):
        group += f"scd:x:{gid}:\n"
    return {"passwd": passwd, "group": group, "nsswitch.conf": _NSSWITCH, "hosts": _HOSTS}


def outermost(paths: Iterable[str]) -> list[str]:
    """Without those that lie below another one."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if not any(is_below(path, other) for other in kept):
            kept.append(path)
    return kept


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory or lies in it."""
    return os.path.commonpath((path, directory)) == directory


def _system() -> list[str]:
    """/bin, /lib and so on: links to /usr on a merged system, directories on others."""
    options = []
    for place in _ROOT_DIRECTORIES:
        if os.path.islink(place):
            options += ["--symlink", os.readlink(place), place]
        else:
            options += ["--ro-bind-try", place, place]
    return options


def _bind(paths: Iterable[str]) -> list[str]:
    return [part for path in outermost(paths) for part in ("--ro-bind-try", path, path)]
