"""Times as Slurm's users write them."""

import time
from collections.abc import Iterator

import pytest

from scd.cli.when import parse_when


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with a summer, written as POSIX has it: no data files are needed."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def local(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


@pytest.mark.parametrize(
    ("text", "ago"),
    [("now", 0), ("now-1hour", 3600), ("now-90", 90), ("now-2days", 172800), ("now+5minutes", -300),
     ("NOW-1Week", 604800)],
)  # fmt: skip
def test_relative_to_now(text: str, ago: float) -> None:
    assert parse_when(text) == pytest.approx(time.time() - ago, abs=2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-01", "2026-11-01T00:00:00"),
        ("2026-11-01T14:30", "2026-11-01T14:30:00"),
        ("2026-07-01T14:30:15", "2026-07-01T14:30:15"),
        ("11/24/26", "2026-11-24T00:00:00"),
        ("11.24.26", "2026-11-24T00:00:00"),
        ("112426", "2026-11-24T00:00:00"),
        ("11/24/26-14:30", "2026-11-24T14:30:00"),
        ("11/24/26-2:30pm", "2026-11-24T14:30:00"),
    ],
)
def test_days_are_local_in_summer_and_in_winter(text: str, meant: str) -> None:
    assert parse_when(text) == local(meant)


@pytest.mark.parametrize(
    ("text", "clock"),
    [("14:30", "14:30:00"), ("14:30:05", "14:30:05"), ("12:05am", "00:05:00"), ("2:00 PM", "14:00:00"),
     ("midnight", "00:00:00"), ("today", "00:00:00"), ("noon", "12:00:00")],
)  # fmt: skip
def test_a_clock_is_of_today(text: str, clock: str) -> None:
    assert parse_when(text) == local(time.strftime("%Y-%m-%d") + f"T{clock}")


def test_what_scdctl_prints_is_taken_back() -> None:
    assert parse_when("2026-11-24T13:30:00.250Z") == local("2026-11-24T14:30:00") + 0.25
    assert parse_when("2026-11-24T13:30:00+02:00") == local("2026-11-24T12:30:00")


@pytest.mark.parametrize("text", ["", "soon", "25:00", "13:00pm", "2026-02-30", "now-", "now-1fortnight", "11/24/26-x"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a time: .* \(write it as now-1hour, 14:30"):
        parse_when(text)
