"""Strangers' archives: none writes outside, each hostile one is refused for its reason, harmless ones are taken."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import Daemon
from .archives import daemon_config, one_of_each, submit_all, unpack_all
from .corpus import Upload, accepted
from .tarbytes import header
from .watch import watched

EACH = 30
SEED = 1
# Of several kinds each: what the daemon says of them is the refusal's own text, which the direct run checks for all.
SAMPLE = (
    "traversal", "link_to_an_absolute_path", "link_down_and_up", "hardlink_to_a_link", "devices_and_pipes",
    "sparse_by_an_extended_header", "too_many_members", "a_bomb_in_one_file", "gzip_within_gzip", "a_tar_that_is_cut",
)  # fmt: skip


def test_no_archive_of_any_shape_reaches_outside(tmp_path: Path) -> None:
    hostile, harmless, damaged = unpack_all(SEED, EACH, tmp_path / "root")
    assert hostile.archives >= 2000
    assert harmless.archives >= 300
    assert damaged.archives >= 300
    findings = hostile.findings + harmless.findings + damaged.findings
    assert not findings, f"{len(findings)} findings:\n" + "\n".join(findings[:20])
    assert hostile.refused == hostile.archives
    assert harmless.taken == harmless.archives
    assert damaged.refused + damaged.taken == damaged.archives
    assert damaged.taken, "if all were refused for a broken checksum, nothing behind it was tried"


def test_a_sample_through_a_daemon(tmp_path: Path, new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon(server=daemon_config())
    place = watched(tmp_path / "root")
    before = place.picture()
    uploads = [upload for upload in one_of_each(SEED, place.root / "escaped") if upload.name[:-2] in SAMPLE]
    assert len(uploads) == len(SAMPLE)
    outcome = submit_all(daemon, [*uploads, next(accepted(SEED, 1, place.root))])
    assert not outcome.findings, "\n".join(outcome.findings)
    assert (outcome.refused, outcome.taken) == (len(SAMPLE), 1)
    assert place.picture() == before


def test_a_bomb_by_ratio_through_a_daemon(new_daemon: Callable[..., Daemon]) -> None:
    """Half a gigabyte of zeros, with the limits that a daemon has by itself."""
    daemon = new_daemon()
    size = 2**29
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = bomb.compress(header(b"zeros", size=b"%o" % size))
    data += b"".join(bomb.compress(bytes(2**20)) for _ in range(size >> 20)) + bomb.flush()
    outcome = submit_all(daemon, [Upload("zeros", data, reason="unpacks to more than 250 times its size")])
    assert not outcome.findings, "\n".join(outcome.findings)
    assert outcome.refused == 1


@pytest.mark.parametrize("change", ["new", "content", "mode", "time", "link", "removed", "owner"])
def test_the_watch_sees_every_kind_of_change(tmp_path: Path, change: str) -> None:
    """The other tests prove as much as this does."""
    place = watched(tmp_path / "root")
    canary = place.target.parent / "canary"
    before = place.picture()
    (place.target / "inside").write_text("what happens inside is no matter")
    assert place.picture() == before
    match change:
        case "new":
            (place.root / "new").mkdir()
        case "content":
            times = canary.stat()
            canary.write_text(canary.read_text().upper())
            os.utime(canary, ns=(times.st_atime_ns, times.st_mtime_ns))
        case "mode":
            canary.chmod(0o4755)
        case "time":
            os.utime(canary, (1, 1))
        case "link":
            os.link(canary, place.target / "hard link")
        case "removed":
            canary.unlink()
        case "owner":
            os.chown(canary, 12345, -1) if os.geteuid() == 0 else canary.chmod(0o600)
    assert place.picture() != before
