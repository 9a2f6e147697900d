"""What a submission's params hold in memory and on the disk, and that they come back as they were."""

import contextlib
import os
from pathlib import Path

import pytest

from scd.errors import DiskFull
from scd.web.held import Held

pytestmark = pytest.mark.anyio
MEGABYTE = 2**20


def no_check(_: int) -> None:
    """There is space."""


@pytest.mark.parametrize(
    "sizes", [[], [5], [MEGABYTE], [MEGABYTE, 1], [700_000] * 5, [3 * MEGABYTE], [MEGABYTE + 1, 7]]
)
async def test_what_is_added_comes_back(tmp_path: Path, sizes: list[int]) -> None:
    held = Held(tmp_path, no_check)
    pieces = [os.urandom(size) for size in sizes]
    for piece in pieces:
        await held.add(piece)
    assert held.size == sum(sizes)
    assert await held.read() == b"".join(pieces)
    assert await held.read() == b"".join(pieces), "it can be read again"
    held.write_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"".join(pieces)
    held.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "copy"], "the file has no name"


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_something_else_in_its_place(tmp_path: Path, size: int) -> None:
    held = Held(tmp_path, no_check)
    await held.add(bytes(size) + b"the key")
    await held.replace(b"the manifest")
    assert await held.read() == b"the manifest"
    held.write_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"the manifest"
    held.close()


async def test_only_large_ones_go_to_the_disk(tmp_path: Path) -> None:
    asked: list[int] = []
    held = Held(tmp_path, asked.append)
    await held.add(bytes(MEGABYTE))
    assert (asked, held.is_large) == ([], False)
    await held.add(bytes(MEGABYTE))
    assert held.is_large
    assert sum(asked) == 2 * MEGABYTE, "there must be space for all of it"
    held.close()


async def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise DiskFull

    held = Held(tmp_path, full)
    with pytest.raises(DiskFull):
        await held.add(bytes(2 * MEGABYTE))
    held.close()


@pytest.mark.parametrize("chunk", [1000, 2**16, MEGABYTE + 5, 4 * MEGABYTE])
async def test_what_comes_last_is_never_on_the_disk(tmp_path: Path, chunk: int) -> None:
    """The client's credentials stand there, behind the manifest."""
    held = Held(tmp_path, no_check)
    data = bytes(4 * MEGABYTE) + b"the key" * 2000
    for start in range(0, len(data), chunk):
        await held.add(data[start : start + chunk])
        assert not any(b"the key" in file.read_bytes() for file in nameless(tmp_path))
    assert await held.read() == data
    (file,) = nameless(tmp_path)
    assert file.stat().st_size > MEGABYTE, "most of it is on the disk"
    held.close()


def nameless(directory: Path) -> list[Path]:
    """Open files of a directory that nobody else can find."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(file).startswith(f"{directory}/"):
                found.append(file)
    return found
