"""What the client would send for a flow of ``tests/acceptance/client.py``, made by the real SiliconCompiler."""

import base64
import io
import json
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from ..harness import CLIENT, RUNTIME, Json

_DUMP = """
import base64, io, json, sys, tarfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from client import build
from siliconcompiler.utils.curation import collect, filter_collection_keys
from siliconcompiler.utils.paths import jobdir
options = dict(option.split("=", 1) for option in sys.argv[4:])
project = build(sys.argv[2], Path(sys.argv[3]), options)
keys = []
for key in project.allkeys():
    param = project.get(*key, field=None)
    if param.is_path and key[0] != "history":
        keys += [(key, step, index) for value, step, index in param.getvalues() if value]
collect(project, keys=filter_collection_keys(keys), verbose=False)
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as tar:
    tar.add(jobdir(project), arcname="")
print(json.dumps({"cfg": project.getdict(), "import": base64.b64encode(packed.getvalue()).decode()}))
"""


@cache
def _submission(flow: str, options: tuple[str, ...]) -> str:
    directory = mkdtemp(prefix="scd-manifest-")
    done = subprocess.run(
        [RUNTIME, "-c", _DUMP, str(CLIENT.parent), flow, directory, *options],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def manifest(flow: str, *options: str) -> Json:
    """A fresh copy, to be spoilt as a test likes."""
    found: Json = json.loads(_submission(flow, options))["cfg"]
    return found


def collected(flow: str, *options: str) -> bytes:
    """The import with the files of the flow: a node sees none but those that come with its job."""
    return base64.b64decode(json.loads(_submission(flow, options))["import"])


def import_archive(files: dict[str, bytes] | None = None) -> bytes:
    """A gzip tar whose root member has an empty name, as the client makes it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        root = tarfile.TarInfo("")
        root.type, root.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(root)
        for name, content in (files or {}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def set_value(cfg: Json, value: object, *keypath: str) -> Json:
    """Set a parameter's global value, as the schema writes it."""
    node = cfg
    for key in keypath:
        node = node[key]
    node["node"]["*"] = {"*": {"value": value, "signature": None}}
    return cfg


def members(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return tar.getnames()


def member(archive: bytes, suffix: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        name = next(name for name in tar.getnames() if name.endswith(suffix))
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def leftovers(spool: Path) -> list[Path]:
    return list((spool / "staging").iterdir())
