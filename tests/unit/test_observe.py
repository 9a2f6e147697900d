import logging
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scd.observe import JournalFormatter, LineFormatter, Repeats

LINE = LineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")


def record(text: str, *values: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("scd", level, __file__, 1, text, values, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nERROR forged", "a\\nERROR forged"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[2J\x1b[31mred", "\\x1b[2J\\x1b[31mred"),
        ("\0\x07\x7f", "\\x00\\x07\\x7f"),
        ("\x85\u2028\u2029", "\\x85\\u2028\\u2029"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("Grün 芯片", "Grün 芯片"),
    ],
)
def test_a_clients_text_forges_no_line_and_steers_no_terminal(text: str, shown: str) -> None:
    line = LINE.format(record("job of %s", text))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO job of (.*)", line), line
    assert line.endswith(f" INFO job of {shown}")


@given(st.text())
def test_every_event_is_one_printable_line(text: str) -> None:
    line = LINE.format(record("%s", text))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line.encode()


def test_a_traceback_is_one_line_too() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        failed = logging.LogRecord("scd", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = LINE.format(failed)
    assert "\n" not in line
    assert line.endswith("ValueError: a\\nb")


def test_times_are_utc() -> None:
    at_zero = record("x")
    at_zero.created = 0.0
    assert LINE.format(at_zero) == "1970-01-01T00:00:00Z INFO x"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (25, 6)],
)
def test_the_journal_is_told_the_priority(level: int, priority: int) -> None:
    line = JournalFormatter("%(message)s").format(record("x\n<0>forged", level=level))
    assert line == f"<{priority}>x\\n<0>forged"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING watch out\n"), ({"JOURNAL_STREAM": "8:1"}, r"<4>watch out\n")],
)
def test_a_process_logs_to_standard_error(environment: dict[str, str], expected: str) -> None:
    code = "import logging, scd.observe as o; o.set_up(); o.set_up(); logging.debug('no'); logging.warning('watch out')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert re.fullmatch(expected, done.stderr), done.stderr


def test_what_repeats_is_counted_instead_of_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    repeats = Repeats()

    def logged(count: int, level: int, line: int) -> list[str]:
        records = [record("failed for %s", "x", level=level) for _ in range(count)]
        for one in records:
            one.lineno = line
        return [LINE.format(one).partition("Z ")[2] for one in records if repeats.filter(one)]

    assert logged(100, logging.ERROR, 1) == ["ERROR failed for x"] * 20
    assert logged(3, logging.WARNING, 2) == ["WARNING failed for x"] * 3, "another event is not kept back"
    assert len(logged(100, logging.INFO, 3)) == 100, "jobs of a busy site are no repetition"
    now += 61
    assert logged(2, logging.ERROR, 1) == ["ERROR failed for x (80 more like it were not logged)", "ERROR failed for x"]
    now += 61
    assert logged(1, logging.ERROR, 1) == ["ERROR failed for x"]
