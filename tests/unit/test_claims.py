"""The directory of a batch attempt: who may run it, and what a path to it cannot be made to lead to."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from scd.executors import places
from scd.launcher.claims import claim, give_up, held, make
from scd.launcher.pinned import hold


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    made = tmp_path / "control" / "slurm" / "1.1"
    assert make(made)
    return made


def test_it_is_made_once(place: Path) -> None:
    assert not make(place)


def test_one_claim_alone_is_granted(place: Path) -> None:
    assert claim(place)
    assert not claim(place)
    assert not give_up(place, "error", "too late")


def test_whoever_missed_the_answer_asks_again(place: Path) -> None:
    assert give_up(place, "error", "cancelled")
    assert give_up(place, "error", "cancelled")
    assert not claim(place)
    assert json.loads((place / "revoked").read_text()) == {"state": "error", "reason": "cancelled"}


def test_what_never_was_is_given_up_too(place: Path) -> None:
    assert give_up(place.with_name("2.1"), "error", "cancelled")


@pytest.mark.parametrize("step", ["slurm", "1.1"])
def test_it_is_read_through_no_link(place: Path, tmp_path: Path, step: str) -> None:
    """An account could have its records be somebody else's."""
    (place / "ended.json").write_text('{"state": "success"}')
    assert places.look(place, known_started=False).ended == {"state": "success"}
    real = place.parent if step == "slurm" else place
    real.rename(tmp_path / "aside")
    real.symlink_to(tmp_path / "aside")
    assert places.look(place, known_started=False) == places.Look()
    with pytest.raises(OSError), held(place):
        pass


def test_a_record_without_end_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MOST_RECORD", 100)
    (place / "ended.json").write_text('{"state": "' + "x" * 100 + '"}')
    (place / "started.json").write_text("[" * 5000)
    found = places.look(place, known_started=False)
    assert (found.ended, found.started) == (None, None)


def test_a_path_that_is_held_leads_where_it_led(place: Path, tmp_path: Path) -> None:
    with held(place) as there:
        place.parent.rename(tmp_path / "control" / "aside")
        (there / "x").write_text("")
    assert (tmp_path / "control" / "aside" / "1.1" / "x").exists()


def test_a_batch_job_writes_where_the_launcher_looked_or_nowhere(tmp_path: Path) -> None:

    control, other = tmp_path / "control", tmp_path / "other"
    for directory in (control, other):
        directory.mkdir()
    seen = control.stat().st_ino
    with contextlib.ExitStack() as stack:
        assert hold(stack, control, seen).stat().st_ino == seen
        assert hold(stack, control, None).stat().st_ino == seen
        control.rename(tmp_path / "aside")
        control.symlink_to(other)
        with pytest.raises(OSError):
            hold(stack, control, seen)
        control.unlink()
        other.rename(control)
        with pytest.raises(OSError, match="another directory is there"):
            hold(stack, control, seen)
        os.rename(tmp_path / "aside", tmp_path / "back")
        assert hold(stack, tmp_path / "back", seen).stat().st_ino == seen
