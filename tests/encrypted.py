"""Jobs of bob, who has a key, and what lies of them on the disk."""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from .harness import Daemon, wait_until
from .integration.submission import collected, manifest
from .keys import Pair


def bob(pair: Pair) -> str:
    return f'[users.bob]\npublic_key = "{pair.public}"\n'


def credentials(pair: Pair) -> dict[str, str]:
    return {"username": "bob", "key": pair.sent}


def everything(daemon: Daemon) -> Iterable[tuple[Path, bytes]]:
    """All files that the daemon keeps, its log too, and what is in those that gzip has packed."""
    for path in sorted(daemon.directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        yield path, data
        if data.startswith(b"\x1f\x8b"):
            try:
                yield path, gzip.decompress(data)
            except (OSError, EOFError):
                continue


def holding(daemon: Daemon, *words: str | bytes) -> set[tuple[str, str]]:
    wanted = [word.encode() if isinstance(word, str) else word for word in words]
    return {(path.name, repr(word)) for path, data in everything(daemon) for word in wanted if word in data}


def wait_until_sealed(daemon: Daemon, job_hash: str) -> None:
    def is_sealed() -> bool:
        return bool(daemon.rows("SELECT sealed FROM jobs WHERE job_hash = ?", job_hash)[0]["sealed"])

    wait_until(is_sealed, f"job {job_hash} is not encrypted after its end", 60)


def submit(daemon: Daemon, pair: Pair, script: str, *, to: str = "after") -> str:
    cfg = manifest("work", script)
    cfg["option"]["to"]["node"]["*"] = {"*": {"value": [to], "signature": [None]}}
    response = daemon.submit(cfg, collected("work", script), **credentials(pair))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def resume(daemon: Daemon, pair: Pair, job_hash: str, script: str) -> tuple[int, str]:
    response = daemon.submit(manifest("work", script), None, job_hash=job_hash, **credentials(pair))
    return response.status_code, response.json()["message"]


def fetch(daemon: Daemon, pair: Pair, job_hash: str, **more: str) -> bytes:
    response = daemon.post(f"/get_results/{job_hash}.tar.gz", {**credentials(pair), **more})
    assert response.status_code == 200, response.text
    assert len(response.content) == int(response.headers["content-length"])
    return response.content


def content(archive: bytes, suffix: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        (name,) = [name for name in tar.getnames() if name.endswith(suffix)]
        file = tar.extractfile(name)
        assert file is not None
        return file.read().decode()
