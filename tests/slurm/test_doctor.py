"""scdctl doctor --slurm: a site that works, and sites that do not."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scd import slurm_cli as cli
from scd.executors.slurm_pyslurm import choose

from ..harness import ROOT, Daemon, Json
from .cluster import NODES, Cluster
from .site import Site, slow


def findings(daemon: Daemon, check: str, options: Sequence[str]) -> list[Json]:
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), "--json", "doctor", *options],
        capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip
    found: list[Json] = json.loads(done.stdout)["findings"]
    assert done.returncode == any(one["level"] == "bad" for one in found)
    return [one for one in found if one["check"] == check]


def doctor(daemon: Daemon) -> tuple[list[str], list[str]]:
    """What is good about Slurm, and what is bad with its remedy."""
    found = findings(daemon, "slurm", ["--slurm"])
    good = [one["text"] for one in found if one["level"] == "good"]
    bad = [f"{one['text']} -> {one['remedy']}" for one in found if one["level"] == "bad"]
    return good, bad


def test_a_site_that_works(site: Site) -> None:
    daemon = site.daemon()
    good, bad = doctor(daemon)
    assert not bad
    assert good[0] == "Slurm's controller answers; its partitions are bigmem, compute."
    assert good[1] == "Slurm does not limit requests (rl_enable): each node is a batch job of its own."
    assert "with SiliconCompiler" in good[2]
    assert not list((daemon.state / "spool" / "staging").iterdir()), "it left something behind"


def test_who_would_read_the_queue(site: Site) -> None:
    """Also without trying a batch job."""
    choice = choose(cli.environment(str(site.cluster.config)))
    choice.reader.close()
    (found,) = findings(site.daemon(), "queue", ())
    assert (found["level"], found["text"]) == ("good" if choice.fits else "note", choice.why)


def test_partitions_and_options_that_are_not_there(site: Site) -> None:
    _, (bad,) = doctor(site.daemon('partition = "nowhere"'))
    assert "[slurm] asks for the queue 'nowhere'; there are bigmem, compute" in bad
    _, (bad,) = doctor(site.daemon('time = "30d"'))
    assert "Slurm's partition compute gives 02:00:00 at most (MaxTime)" in bad


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("slurm(64030)", ": scd keeps within that, and nodes that are ready together go as a job array."),
        (
            "root(0)",
            ", but not those of scd's account, which is SlurmUser; nodes that are ready together go as a job array.",
        ),
    ],
)
def test_a_site_that_limits_requests(site: Site, monkeypatch: pytest.MonkeyPatch, user: str, words: str) -> None:
    """As scontrol tells it: the installed Slurm may be too old to do it."""
    limited = "rl_enable,rl_bucket_size=500,rl_refill_rate=50,rl_refill_period=4"
    lines = f"s/^SlurmctldParameters .*/SlurmctldParameters = {limited}/; s/^SlurmUser .*/SlurmUser = {user}/"
    site.replace("scontrol", f'"$real" "$@" | sed "{lines}"')
    monkeypatch.setenv("PATH", f"{site.commands}:{os.environ['PATH']}")
    good, bad = doctor(site.daemon())
    assert not bad
    assert good[1] == f"Slurm limits an account's requests to 500 at once and 50 every 4 s (rl_enable){words}"
    assert "with SiliconCompiler" in good[2]


def test_licences_that_slurm_does_not_know(site: Site) -> None:
    good, bad = doctor(site.daemon('[licenses]\nexecute = 1\nvcs = 4\n[licenses.own]\ncount = 1\nslurm = ""'))
    assert [text.partition(": ")[0] for text in bad] == ["Slurm knows no licence vcs"]
    assert "add Licenses=vcs:4 to slurm.conf" in bad[0]
    assert "with SiliconCompiler" in good[-1], "what is good is not tried any more"
    good, bad = doctor(site.daemon("[licenses]\nexecute = 1"))
    assert not bad
    assert good[2] == "Slurm knows the licences execute."


def test_a_controller_that_is_not_there(site: Site, tmp_path: Path) -> None:
    daemon = site.daemon()
    wrong = tmp_path / "slurm.conf"
    text = site.cluster.config.read_text()
    (port,) = (line for line in text.splitlines() if line.startswith("SlurmctldPort"))
    wrong.write_text(text.replace(port, "SlurmctldPort=1"))
    daemon.file.write_text(daemon.file.read_text().replace(str(site.cluster.config), str(wrong)))
    _, (bad,) = doctor(daemon)
    assert "Slurm's controller does not answer" in bad


@slow
def test_a_spool_that_compute_nodes_do_not_have(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {daemon.state} && exec "$@"', "sh"]
    try:
        for number in range(1, NODES + 1):
            slurm.kill(f"node{number}", 15)
            slurm.launch(f"node{number}", hide)
        slurm.wait_until_ready()
        _, (bad,) = doctor(daemon)
    finally:
        slurm.mend()
    assert "share the spool with the compute nodes" in bad
