"""Pairs of SSH keys for the tests, made by ssh-keygen."""

import base64
import subprocess
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    file: Path
    public: str  # kind and base64, as the configuration has it
    private: str  # the text of the file

    @property
    def sent(self) -> str:
        """What a client is given as its password."""
        return base64.b64encode(self.private.encode()).decode()


def make_pair(file: Path, *options: str, passphrase: str = "") -> Pair:
    """``options`` of ssh-keygen; without any an ed25519 pair."""
    subprocess.run(
        ["ssh-keygen", "-q", *(options or ("-t", "ed25519")), "-N", passphrase, "-C", "test", "-f", str(file)],
        check=True, capture_output=True,
    )  # fmt: skip
    public = " ".join(file.with_name(file.name + ".pub").read_text().split()[:2])
    return Pair(file, public, file.read_text())
