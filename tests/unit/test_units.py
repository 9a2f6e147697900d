import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scd.units import format_duration, format_elapsed, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("4096B", 4096), ("512K", 512 * 1024), ("512KiB", 512 * 1024),
        ("512KB", 512_000), ("1.5 GB", 1_500_000_000), ("1.5GiB", 3 * 2**29), ("10GiB", 10 * 2**30),
        ("8G", 8 * 2**30), ("2T", 2 * 2**40), ("1PiB", 2**50), ("  1MiB\n", 2**20), ("1.5", 1),
    ],
)  # fmt: skip
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "B", "GiB", "-1", "-1GiB", "+1", "1 0", "1GiBs", "1XiB", "1gib", "1iB", "1e9", "0x10", "1,5GiB", "inf", "nan",
     "1h", "1..5", ".5G", "unlimited", "\u0661", "1\u00a0G"],
)  # fmt: skip
def test_what_is_no_size_is_refused_by_a_text_for_the_user(text: str) -> None:
    expected = re.escape(f"not a size: {text!r} (write it as 512MiB, 10GiB or a number of bytes)")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("90", 90), ("1.5", 1.5), ("90s", 90), ("250ms", 0.25), ("1h30m", 5400), ("1h 30min", 5400),
        ("5 sec", 5), ("30d", 30 * 86400), ("2w", 14 * 86400), ("0:05", 300), ("1:30", 5400), ("01:30:00", 5400),
        ("100:00:00", 360_000), ("2-00:00:00", 172_800), ("1-12:30", 131_400), (" 1h ", 3600), ("0.5d", 43_200),
    ],
)  # fmt: skip
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "-5", "-1h", "h", "1x", "1h-", "1:60", "1:00:60", "1:2:3:4", "1-5", "-1:00", "1e3", "inf", "nan", "1h foo",
     "one hour", "1d12:00:00", "10GiB", "5M", "unlimited", "\u0661h"],
)  # fmt: skip
def test_what_is_no_duration_is_refused_by_a_text_for_the_user(text: str) -> None:
    expected = re.escape(f"not a duration: {text!r} (write it as 90s, 1h30m, 30d or 2-00:00:00)")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (1, "1B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (2**20, "1MiB"),
        (8 * 2**30, "8GiB"), (2**40, "1TiB"), (5000 * 2**40, "5000TiB"),
    ],
)  # fmt: skip
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (0.99, "0:00:00"), (65, "0:01:05"), (3599.9, "0:59:59"), (3600, "1:00:00"),
     (86_400, "24:00:00"), (360_000, "100:00:00"), (-3, "0:00:00")],
)  # fmt: skip
def test_elapsed_has_unbounded_hours_since_days_kill_the_client(seconds: float, text: str) -> None:
    assert format_elapsed(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00"), (65, "00:01:05"), (86_399, "23:59:59"), (86_400, "1-00:00:00"), (360_000, "4-04:00:00"),
     (-1, "00:00:00")],
)  # fmt: skip
def test_durations_read_as_sacct_prints_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 2**55))
def test_a_size_that_was_printed_can_be_read_again(size: int) -> None:
    """--show-config is itself a configuration. At most one decimal is lost."""
    assert abs(parse_size(format_size(size)) - size) <= size * 0.051 + 1


@given(st.integers(0, 10**9))
def test_a_duration_that_was_printed_is_read_as_the_same(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
    assert parse_duration(format_elapsed(seconds)) == seconds


@given(st.text(max_size=20))
def test_no_text_makes_the_parsers_fail_otherwise(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            found = parse(text)
        except ValueError:
            continue
        assert found >= 0
